"""Lesson 6: An egress rule, and names are gone. `netlab learn 6` opens it; as a script it runs through and checks itself."""

import marimo

__generated_with = "0.25.2"
app = marimo.App(
    width="medium",
    app_title="netlab 6: An egress rule, and names are gone",
)


@app.cell
def _():
    import marimo as mo

    from netlab.learn import classroom, marked, opinion

    return classroom, marked, mo, opinion


@app.cell
def _(mo):
    mo.md("""
    # 6. An egress rule, and names are gone

    web may send to api and to nobody else. `curl http://api` fails before any packet to api is sent. Why?
    """)
    return


@app.cell
def _():
    EGRESS = """\
    apiVersion: networking.k8s.io/v1
    kind: NetworkPolicy
    metadata: {name: web-out, namespace: default}
    spec:
      podSelector: {matchLabels: {app: web}}
      policyTypes: [Egress]
      egress:
      - to: [{podSelector: {matchLabels: {app: api}}}]
    """
    return (EGRESS,)


@app.cell
def _(mo):
    guess = mo.ui.radio(
        ["Egress rules do not work for Services", "web-0 cannot ask the cluster's DNS", "The Service's port has to be listed"],
        label="What do you think?",
    )
    guess
    return (guess,)


@app.cell
def _(EGRESS, classroom):
    room = classroom("flannel-vxlan.yaml", add=EGRESS, cni="canal")
    told = room.trace("web-0", "kube-system/svc/kube-dns:53", "udp")
    api = room.trace("web-0", "svc/api")
    return api, room, told


@app.cell
def _(mo, told):
    mo.vstack([mo.md(f"```\n{told.text}\n```"), told.page()])
    return


@app.cell
def _(api, guess, mo, opinion, told):
    said_so = opinion(guess, 1)
    mo.md(
        f"""
    ## The answer

    {said_so}To api it is **{api.verdict}**, to DNS **{told.verdict}**: {told.reason} The policy selects web for egress, so
    everything that it does not list is denied, and that includes UDP 53 to kube-dns.
    """
    )
    return


@app.cell
def _(EGRESS, classroom, mo):
    DNS = (
        EGRESS
        + """  - to: [{namespaceSelector: {}, podSelector: {matchLabels: {k8s-app: kube-dns}}}]
        ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
    """
    )
    other = classroom("flannel-vxlan.yaml", add=DNS, cni="canal").trace("web-0", "kube-system/svc/kube-dns:53", "udp")
    mo.md(
        f"""
    ## Change one thing

    Allow DNS, by UDP and by TCP, for long answers come by TCP.

    Now **{other.verdict}**.
    """
    )
    return


@app.cell
def _(mo, room):
    # question, answers, the right one, and whether the cluster says so, too
    checks = [
        (
            "May api-0 still ask DNS?",
            ["yes: no policy selects it for egress", "no"],
            0,
            bool(room.trace("api-0", "kube-system/svc/kube-dns:53", "udp").verdict == "delivered"),
        ),
    ]
    answers = mo.ui.array([mo.ui.radio(options, label=question) for question, options, _, _ in checks])
    mo.vstack([mo.md("## Check yourself"), answers])
    return answers, checks


@app.cell
def _(answers, checks, marked, mo):
    mo.md(marked(checks, answers.value))
    return


if __name__ == "__main__":
    app.run()
