"""Lesson 7: Port 80 is allowed, and denied. `netlab learn 7` opens it; as a script it runs through and checks itself."""

import marimo

__generated_with = "0.25.2"
app = marimo.App(
    width="medium",
    app_title="netlab 7: Port 80 is allowed, and denied",
)


@app.cell
def _():
    import marimo as mo

    from netlab.learn import classroom, marked, opinion

    return classroom, marked, mo, opinion


@app.cell
def _(mo):
    mo.md("""
    # 7. Port 80 is allowed, and denied

    Service api has port 80 and targetPort 9000. The policy allows port 80. Does web-0 reach svc/api:80?
    """)
    return


@app.cell
def _():
    PORT = """\
    apiVersion: networking.k8s.io/v1
    kind: NetworkPolicy
    metadata: {name: api-port, namespace: default}
    spec:
      podSelector: {matchLabels: {app: api}}
      ingress:
      - ports: [{port: 80, protocol: TCP}]
    """
    return (PORT,)


@app.cell
def _(mo):
    guess = mo.ui.radio(["Yes, that is the port that it asks for", "No"], label="What do you think?")
    guess
    return (guess,)


@app.cell
def _(PORT, classroom):
    room = classroom("flannel-vxlan.yaml", add=PORT, cni="canal")
    told = room.trace("web-0", "svc/api:80")
    return (told,)


@app.cell
def _(mo, told):
    mo.vstack([mo.md(f"```\n{told.text}\n```"), told.page()])
    return


@app.cell
def _(guess, mo, opinion, told):
    said_so = opinion(guess, 1)
    mo.md(
        f"""
    ## The answer

    {said_so}**{told.verdict}**. The address and port of a Service are gone before any policy looks: DNAT made of them a pod's
    address and its targetPort, 9000, and that is what the policy is asked about. Policies are about pods.
    """
    )
    return


@app.cell
def _(PORT, classroom, mo):
    other = classroom("flannel-vxlan.yaml", add=PORT.replace("port: 80", "port: 9000"), cni="canal").trace("web-0", "svc/api:80")
    mo.md(
        f"""
    ## Change one thing

    Write 9000.

    Now **{other.verdict}**.
    """
    )
    return


@app.cell
def _(PORT, classroom, mo):
    # question, answers, the right one, and whether the cluster says so, too
    checks = [
        (
            "And with the name of the container's port, http?",
            ["delivered: the name is looked up at the pod", "dropped"],
            0,
            bool(
                classroom("flannel-vxlan.yaml", add=PORT.replace("port: 80", "port: http"), cni="canal")
                .trace("web-0", "svc/api:80")
                .verdict
                == "delivered"
            ),
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
