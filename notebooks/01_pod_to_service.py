"""Lesson 1: A pod calls a Service on its own node. `netlab learn 1` opens it; as a script it runs through and checks itself."""

import marimo

__generated_with = "0.25.2"
app = marimo.App(
    width="medium",
    app_title="netlab 1: A pod calls a Service on its own node",
)


@app.cell
def _():
    from fractions import Fraction

    import marimo as mo

    from netlab.learn import classroom, marked, opinion

    return Fraction, classroom, marked, mo, opinion


@app.cell
def _(mo):
    mo.md("""
    # 1. A pod calls a Service on its own node

    `web-0` on node-1 connects to Service `api`, 10.96.0.20:80. No device has that address. Who makes a pod of it, and
    where?
    """)
    return


@app.cell
def _(mo):
    guess = mo.ui.radio(
        [
            "A process of kube-proxy takes the connection and passes it on",
            "A rule of iptables on web-0's own node rewrites the destination",
            "DNS gives web-0 the address of a pod",
        ],
        label="What do you think?",
    )
    guess
    return (guess,)


@app.cell
def _(classroom):
    room = classroom()
    told = room.trace("web-0", "svc/api")
    return room, told


@app.cell
def _(mo, told):
    mo.vstack([mo.md(f"```\n{told.text}\n```"), told.page()])
    return


@app.cell
def _(guess, mo, opinion, told):
    near = told.branch("api-0")
    said_so = opinion(guess, 1)
    mo.md(
        f"""
    ## The answer

    {said_so}The kernel of node-1 has rules that kube-proxy has written. `KUBE-SERVICES` knows the address, `KUBE-SVC-...` draws
    one of the endpoints, and `KUBE-SEP-...` rewrites the destination: DNAT. The packet came to api-0 as
    **{near.endpoint}**, and api-0 saw **{near.source_seen}**, web-0's own address. conntrack remembers the rewrite and
    undoes it for the answer. kube-proxy itself touches no packet.
    """
    )
    return


@app.cell
def _(mo, room):
    other = room.trace("web-0", "svc/nobody")
    mo.md(
        f"""
    ## Change one thing

    Take the endpoints away: ask Service `nobody`, which selects no pod.

    Now it is **{other.verdict}**: {other.reason}
    """
    )
    return


@app.cell
def _(Fraction, mo, told):
    # question, answers, the right one, and whether the cluster says so, too
    checks = [
        (
            "How probable is each of the three endpoints?",
            ["1/3", "1/2, 1/4, 1/4", "they take turns"],
            0,
            bool(told.trace.branches[0].probability == Fraction(1, 3)),
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
