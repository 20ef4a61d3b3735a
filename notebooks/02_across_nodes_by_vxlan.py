"""Lesson 2: Across nodes, in a tunnel. `netlab learn 2` opens it; as a script it runs through and checks itself."""

import marimo

__generated_with = "0.25.2"
app = marimo.App(
    width="medium",
    app_title="netlab 2: Across nodes, in a tunnel",
)


@app.cell
def _():
    import marimo as mo

    from netlab.learn import classroom, marked, opinion
    from netlab.trace.steps import Encapsulated

    return Encapsulated, classroom, marked, mo, opinion


@app.cell
def _(mo):
    mo.md("""
    # 2. Across nodes, in a tunnel

    `web-0` on node-1 sends to `api-1` on node-2. The switch between the nodes knows the nodes' addresses alone, not
    10.244.1.11. How does the packet get there?
    """)
    return


@app.cell
def _(mo):
    guess = mo.ui.radio(
        [
            "The node puts the whole frame into a UDP packet to the other node",
            "The node changes the destination to the other node's address",
            "The switch learns where every pod is",
        ],
        label="What do you think?",
    )
    guess
    return (guess,)


@app.cell
def _(classroom):
    room = classroom()
    told = room.trace("web-0", "api-1:9000")
    return (told,)


@app.cell
def _(mo, told):
    mo.vstack([mo.md(f"```\n{told.text}\n```"), told.page()])
    return


@app.cell
def _(Encapsulated, guess, mo, opinion, told):
    encap = told.steps(Encapsulated)[0]
    outer = encap.outer
    grew = outer.length - outer.inner.length
    said_so = opinion(guess, 0)
    mo.md(
        f"""
    ## The answer

    {said_so}Flannel's route for 10.244.1.0/24 leads into `flannel.1`. That device wraps the packet: outer Ethernet, IP from
    **{outer.source}** to **{outer.destination}**, UDP to port **{outer.dport}**, VXLAN with VNI **{encap.vni}**, and
    inside it the inner frame as it was, from {outer.inner.source} to {outer.inner.destination}. The fabric sees the outer
    packet alone. On node-2 the kernel takes it off again. It costs {grew} bytes: that is why pods' MTU is 1450.
    """
    )
    return (outer,)


@app.cell
def _(Encapsulated, classroom, mo):
    other = classroom("flannel-host-gw.yaml").trace("web-0", "api-1:9000")
    mo.md(
        f"""
    ## Change one thing

    The same with Flannel's host-gw backend, where nodes are neighbours and no tunnel is needed.

    **{other.verdict}**, and nothing was wrapped: {len(other.steps(Encapsulated))} encapsulations. The route leads to the
    other node at once.
    """
    )
    return


@app.cell
def _(mo, outer, told):
    # question, answers, the right one, and whether the cluster says so, too
    checks = [
        (
            "Which source address does the switch see?",
            ["192.168.50.11, node-1", "10.244.0.10, web-0", "10.244.0.1, cni0"],
            0,
            bool(outer.source == "192.168.50.11"),
        ),
        (
            "Which source address does api-1 see?",
            ["192.168.50.11, node-1", "10.244.0.10, web-0", "10.244.1.1, its gateway"],
            1,
            bool(told.trace.branches[0].source_seen == "10.244.0.10"),
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
