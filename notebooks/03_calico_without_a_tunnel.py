"""Lesson 3: Calico: routes instead of a tunnel. `netlab learn 3` opens it; as a script it runs through and checks itself."""

import marimo

__generated_with = "0.25.2"
app = marimo.App(
    width="medium",
    app_title="netlab 3: Calico: routes instead of a tunnel",
)


@app.cell
def _():
    import marimo as mo

    from netlab.learn import classroom, marked, opinion
    from netlab.trace.steps import Encapsulated, Routed

    return Encapsulated, Routed, classroom, marked, mo, opinion


@app.cell
def _(mo):
    mo.md("""
    # 3. Calico: routes instead of a tunnel

    With Calico and BGP, `web-0` reaches `api-2` on another node without any wrapping. What does the fabric have to know
    for that?
    """)
    return


@app.cell
def _(mo):
    guess = mo.ui.radio(
        ["Nothing: it floods", "Routes to each node's block of pod addresses", "The MAC of every pod"], label="What do you think?"
    )
    guess
    return (guess,)


@app.cell
def _(classroom):
    room = classroom("calico-bgp.yaml")
    told = room.trace("web-0", "api-1:9000")
    return (told,)


@app.cell
def _(mo, told):
    mo.vstack([mo.md(f"```\n{told.text}\n```"), told.page()])
    return


@app.cell
def _(Encapsulated, Routed, guess, mo, opinion, told):
    wrapped = len(told.steps(Encapsulated))
    route = next(step.route for step in told.steps(Routed) if "bird" in step.route)
    said_so = opinion(guess, 1)
    mo.md(
        f"""
    ## The answer

    {said_so}There were {wrapped} encapsulations: the packet with pod addresses itself is on the wire,
    {told.trace.branches[0].verdict.value}. Each node's BIRD announces its blocks of pod addresses by BGP, and the others
    (and routers, where nodes are not neighbours) install routes to them: "{route}". A pod's gateway is 169.254.1.1, an
    address that nobody has: the cali device answers ARP for it, and the node routes.
    """
    )
    return


@app.cell
def _(Encapsulated, classroom, mo):
    other = classroom("calico-vxlan.yaml").trace("web-0", "api-1:9000")
    mo.md(
        f"""
    ## Change one thing

    Calico with VXLAN, where the fabric knows the nodes alone.

    Now {len(other.steps(Encapsulated))} encapsulation, and it is {other.verdict}.
    """
    )
    return


@app.cell
def _(Routed, mo, told):
    # question, answers, the right one, and whether the cluster says so, too
    checks = [
        (
            "Which gateway does a pod of Calico's have?",
            ["cni0's address", "169.254.1.1", "the node's address"],
            1,
            bool(any("169.254.1.1" in step.route for step in told.steps(Routed))),
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
