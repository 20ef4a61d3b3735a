"""Lesson 12: Small requests work, large ones hang. `netlab learn 12` opens it; as a script it runs through and checks itself."""

import marimo

__generated_with = "0.25.2"
app = marimo.App(
    width="medium",
    app_title="netlab 12: Small requests work, large ones hang",
)


@app.cell
def _():
    import marimo as mo

    from netlab.learn import classroom, marked, opinion
    from netlab.trace.steps import MtuStep

    return MtuStep, classroom, marked, mo, opinion


@app.cell
def _(mo):
    mo.md("""
    # 12. Small requests work, large ones hang

    A client outside sends full packets of 1500 bytes to a NodePort, with DF set, and the pod is on another node, behind a
    VXLAN tunnel. What happens?
    """)
    return


@app.cell
def _(mo):
    guess = mo.ui.radio(
        ["The node cuts them into fragments", "They are dropped, and the client is told the MTU", "They get through"],
        label="What do you think?",
    )
    guess
    return (guess,)


@app.cell
def _(classroom):
    room = classroom()
    told = room.trace("internet", "node/node-1:30080", size=1500)
    small = room.trace("internet", "node/node-1:30080", size=600)
    return room, small, told


@app.cell
def _(mo, told):
    mo.vstack([mo.md(f"```\n{told.text}\n```"), told.page()])
    return


@app.cell
def _(guess, mo, opinion, small, told):
    said_so = opinion(guess, 1)
    mo.md(
        f"""
    ## The answer

    {said_so}600 bytes: **{small.verdict}**. 1500 bytes: **{told.verdict}**: {told.reason}. VXLAN takes 50 bytes, so 1450 are left.
    The ICMP error tells the client the MTU; where a firewall throws such errors away, the handshake works, small requests
    work, and the first large packet hangs for ever. Pods do not have this: their own MTU is 1450, so their TCP makes
    segments that fit.
    """
    )
    return


@app.cell
def _(MtuStep, mo, room):
    other = room.trace("web-0", "api-1:9000", size=1500)
    mo.md(
        f"""
    ## Change one thing

    A pod sends 1500 bytes.

    **{other.verdict}**: {other.steps(MtuStep)[0].note or "segments that fit"}.
    """
    )
    return


@app.cell
def _(mo, room):
    # question, answers, the right one, and whether the cluster says so, too
    checks = [
        (
            "Which MTU does eth0 of a pod have under Flannel's VXLAN, on a fabric of 1500?",
            ["1500", "1450", "1400"],
            1,
            bool(room.tracer.network.namespaces["default/web-0"].devices["eth0"].mtu == 1450),
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
