"""Lesson 5: One dash: OR and AND in `from`. `netlab learn 5` opens it; as a script it runs through and checks itself."""

import marimo

__generated_with = "0.25.2"
app = marimo.App(
    width="medium",
    app_title="netlab 5: One dash: OR and AND in `from`",
)


@app.cell
def _():
    import marimo as mo

    from netlab.learn import classroom, marked, opinion

    return classroom, marked, mo, opinion


@app.cell
def _(mo):
    mo.md("""
    # 5. One dash: OR and AND in `from`

    `from` has a podSelector for app=client and a namespaceSelector for `default`, each with its own dash. May web-0
    (app=web, in default) connect?
    """)
    return


@app.cell
def _():
    OR = """\
    apiVersion: networking.k8s.io/v1
    kind: NetworkPolicy
    metadata: {name: api, namespace: default}
    spec:
      podSelector: {matchLabels: {app: api}}
      ingress:
      - from:
        - podSelector: {matchLabels: {app: client}}
        - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}
    """
    return (OR,)


@app.cell
def _(mo):
    guess = mo.ui.radio(
        ["Yes: the dash makes two peers, one of which is enough", "No: both have to match"], label="What do you think?"
    )
    guess
    return (guess,)


@app.cell
def _(OR, classroom):
    room = classroom("flannel-vxlan.yaml", add=OR, cni="canal")
    told = room.trace("web-0", "api-0:9000")
    return (told,)


@app.cell
def _(mo, told):
    mo.vstack([mo.md(f"```\n{told.text}\n```"), told.page()])
    return


@app.cell
def _(guess, mo, opinion, told):
    said_so = opinion(guess, 0)
    mo.md(
        f"""
    ## The answer

    {said_so}**{told.verdict}**. Two dashes are two peers: *client pods of this namespace* **or** *any pod of default*. Without the
    second dash it would be one peer with two conditions: *client pods* **and** *of default*.
    """
    )
    return


@app.cell
def _(OR, classroom, mo):
    AND = OR.replace("    - namespaceSelector", "      namespaceSelector")
    other = classroom("flannel-vxlan.yaml", add=AND, cni="canal").trace("web-0", "api-0:9000")
    mo.md(
        f"""
    ## Change one thing

    Take the second dash away.

    Now **{other.verdict}**: web-0 is in default, and not app=client.
    """
    )
    return


@app.cell
def _(OR, classroom, mo):
    # question, answers, the right one, and whether the cluster says so, too
    checks = [
        (
            "What does a podSelector alone in `from` look at?",
            ["pods of all namespaces", "pods of the policy's own namespace"],
            1,
            bool(
                classroom(
                    "flannel-vxlan.yaml",
                    add=OR.replace(
                        "    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}\n", ""
                    ).replace("app: client", "k8s-app: kube-dns"),
                    cni="canal",
                )
                .trace("kube-system/dns-0", "api-0:9000")
                .verdict
                != "delivered"
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
