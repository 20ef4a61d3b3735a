"""Lesson 4: Default deny, and who is selected. `netlab learn 4` opens it; as a script it runs through and checks itself."""

import marimo

__generated_with = "0.25.2"
app = marimo.App(
    width="medium",
    app_title="netlab 4: Default deny, and who is selected",
)


@app.cell
def _():
    import marimo as mo

    from netlab.learn import classroom, marked, opinion

    return classroom, marked, mo, opinion


@app.cell
def _(mo):
    mo.md("""
    # 4. Default deny, and who is selected

    A NetworkPolicy without a single rule selects `app: api`. What changes for web-0 -> api-0, and for api-0 -> web-0?
    """)
    return


@app.cell
def _():
    DENY = """\
    apiVersion: networking.k8s.io/v1
    kind: NetworkPolicy
    metadata: {name: deny, namespace: default}
    spec: {podSelector: {matchLabels: {app: api}}, policyTypes: [Ingress]}
    """
    return (DENY,)


@app.cell
def _(mo):
    guess = mo.ui.radio(
        ["Nothing: a policy without rules does nothing", "Both are denied", "Only what goes to api is denied"],
        label="What do you think?",
    )
    guess
    return (guess,)


@app.cell
def _(DENY, classroom):
    room = classroom("flannel-vxlan.yaml", add=DENY, cni="canal")
    told = room.trace("web-0", "api-0:9000")
    back = room.trace("api-0", "web-0:8080")
    return back, told


@app.cell
def _(mo, told):
    mo.vstack([mo.md(f"```\n{told.text}\n```"), told.page()])
    return


@app.cell
def _(back, guess, mo, opinion, told):
    said_so = opinion(guess, 2)
    mo.md(
        f"""
    ## The answer

    {said_so}To api it is **{told.verdict}**, from api it is **{back.verdict}**. A pod that some policy selects for ingress is
    isolated for ingress: what no rule allows is denied. The policy says nothing of egress, and pods that no policy
    selects stay open. The answers of an allowed connection always pass: policies judge connections, not packets.
    """
    )
    return


@app.cell
def _(DENY, classroom, mo):
    other = classroom("flannel-vxlan.yaml", add=DENY.replace("{matchLabels: {app: api}}", "{}"), cni="canal").trace(
        "api-0", "web-0:8080"
    )
    mo.md(
        f"""
    ## Change one thing

    Select everybody: an empty `podSelector`.

    Now api-0 -> web-0 is **{other.verdict}**, too: web-0 is selected.
    """
    )
    return


@app.cell
def _(DENY, classroom, mo):
    # question, answers, the right one, and whether the cluster says so, too
    checks = [
        (
            "A second policy that allows web comes beside this one. What holds?",
            ["the first by name", "the denial: it is stricter", "both: what one of them allows is allowed"],
            2,
            bool(
                classroom(
                    "flannel-vxlan.yaml",
                    add=DENY
                    + "---\n"
                    + DENY.replace("name: deny", "name: open").replace("policyTypes: [Ingress]", "ingress: [{}]"),
                    cni="canal",
                )
                .trace("web-0", "api-0:9000")
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
