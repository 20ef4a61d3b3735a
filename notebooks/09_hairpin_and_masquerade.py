"""Lesson 9: A pod meets itself. `netlab learn 9` opens it; as a script it runs through and checks itself."""

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="netlab 9: A pod meets itself")


@app.cell
def _():
    import marimo as mo

    from netlab.learn import classroom, marked, opinion
    from netlab.trace.steps import RuleStep

    return RuleStep, classroom, marked, mo, opinion


@app.cell
def _(mo):
    mo.md("""
    # 9. A pod meets itself

    api-0 calls its own Service, and chance picks api-0. Which source address does api-0 see?
    """)
    return


@app.cell
def _(mo):
    guess = mo.ui.radio(["its own", "its node's address on the bridge", "127.0.0.1"], label="What do you think?")
    guess
    return (guess,)


@app.cell
def _(classroom):
    room = classroom()
    told = room.trace("api-0", "svc/api")
    return room, told


@app.cell
def _(mo, told):
    mo.vstack([mo.md(f"```\n{told.text}\n```"), told.page()])
    return


@app.cell
def _(guess, mo, opinion, told):
    itself = told.branch("api-0")
    other_end = told.branch("api-1")
    said_so = opinion(guess, 1)
    mo.md(
        f"""
    ## The answer

    {said_so}**{itself.source_seen}**, while api-1 sees {other_end.source_seen}. If api-0 got a packet from its own address, it
    would answer itself directly, without the node, and nobody would undo the DNAT: the client would get an answer from an
    address that it never asked. So kube-proxy's `KUBE-SEP-...` chain marks what comes from the endpoint itself, and
    `KUBE-POSTROUTING` masquerades it.
    """
    )
    return (itself,)


@app.cell
def _(mo, room):
    other = room.trace("web-0", "svc/api")
    mo.md(
        f"""
    ## Change one thing

    Another pod calls: nothing is masqueraded.

    web-0 is seen as {other.branch("api-0").source_seen}.
    """
    )
    return


@app.cell
def _(RuleStep, itself, mo):
    # question, answers, the right one, and whether the cluster says so, too
    checks = [
        (
            "Which chain sets the mark 0x4000?",
            ["KUBE-MARK-MASQ", "KUBE-POSTROUTING", "KUBE-SERVICES"],
            0,
            bool(any(step.chain == "KUBE-MARK-MASQ" for hop in itself.hops for step in hop.steps if isinstance(step, RuleStep))),
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
