"""Lesson 8: externalTrafficPolicy Local, and no pod there. `netlab learn 8` opens it; as a script it runs through and checks itself."""

import marimo

__generated_with = "0.25.2"
app = marimo.App(
    width="medium",
    app_title="netlab 8: externalTrafficPolicy Local, and no pod there",
)


@app.cell
def _():
    import marimo as mo

    from netlab.learn import classroom, marked, opinion

    return classroom, marked, mo, opinion


@app.cell
def _(mo):
    mo.md("""
    # 8. externalTrafficPolicy Local, and no pod there

    The load balancer sends a client's packet for `shop` to node-3, which runs no pod of it. The Service has
    externalTrafficPolicy: Local. What happens?
    """)
    return


@app.cell
def _(mo):
    guess = mo.ui.radio(
        ["node-3 passes it on to a node with a pod", "It is dropped", "The client gets a refusal"], label="What do you think?"
    )
    guess
    return (guess,)


@app.cell
def _(classroom):
    room = classroom()
    told = room.trace("internet", "svc/shop", at="node-3")
    good = room.trace("internet", "svc/shop", at="node-2")
    return good, room, told


@app.cell
def _(mo, told):
    mo.vstack([mo.md(f"```\n{told.text}\n```"), told.page()])
    return


@app.cell
def _(good, guess, mo, opinion, told):
    said_so = opinion(guess, 1)
    mo.md(
        f"""
    ## The answer

    {said_so}**{told.verdict}**: {told.reason} At node-2 it is **{good.verdict}**, and the pod sees the client's own address,
    {good.trace.branches[0].source_seen}. That is the point of Local: no second hop, so no masquerading. A load balancer
    asks healthCheckNodePort which nodes have a pod.
    """
    )
    return


@app.cell
def _(mo, room):
    other = room.trace("internet", "node/node-3:30080")
    mo.md(
        f"""
    ## Change one thing

    The same client to Service `web`, whose policy is Cluster, at node-3.

    **{other.verdict}**, but the pod sees {other.trace.branches[0].source_seen}: the node masqueraded the client, so that
    the answer comes back this way.
    """
    )
    return


@app.cell
def _(mo, room):
    # question, answers, the right one, and whether the cluster says so, too
    checks = [
        (
            "Is a pod's own traffic to svc/shop's ClusterIP bound to its node, too?",
            ["yes", "no: that would be internalTrafficPolicy"],
            1,
            bool(room.trace("api-2", "svc/shop").verdict == "delivered"),
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
