"""Lesson 10: The policy that nobody enforces. `netlab learn 10` opens it; as a script it runs through and checks itself."""

import marimo

__generated_with = "0.25.2"
app = marimo.App(
    width="medium",
    app_title="netlab 10: The policy that nobody enforces",
)


@app.cell
def _():
    import marimo as mo

    from netlab.learn import classroom, marked, opinion
    from netlab.trace.steps import PolicyStep

    return PolicyStep, classroom, marked, mo, opinion


@app.cell
def _(mo):
    mo.md("""
    # 10. The policy that nobody enforces

    The cluster runs Flannel. Somebody applies a NetworkPolicy that denies everything to api. Does web-0 still reach it?
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
    guess = mo.ui.radio(["No: the API server accepted the policy", "Yes"], label="What do you think?")
    guess
    return (guess,)


@app.cell
def _(DENY, classroom):
    room = classroom("flannel-vxlan.yaml", add=DENY)
    told = room.trace("web-0", "api-0:9000")
    return (told,)


@app.cell
def _(mo, told):
    mo.vstack([mo.md(f"```\n{told.text}\n```"), told.page()])
    return


@app.cell
def _(PolicyStep, guess, mo, opinion, told):
    said = (
        next(
            step
            for hop in told.trace.branches[0].hops
            for step in hop.steps
            if isinstance(step, PolicyStep) and step.direction == "ingress"
        ).reason
        if hasattr(PolicyStep, "reason")
        else "flannel enforces no policies"
    )
    said_so = opinion(guess, 1)
    mo.md(
        f"""
    ## The answer

    {said_so}**{told.verdict}**. The API server stores policies, but only an engine on each node makes rules of them, and Flannel
    has none. netlab says so at the step: "{said}".
    """
    )
    return


@app.cell
def _(DENY, classroom, mo):
    other = classroom("flannel-vxlan.yaml", add=DENY, cni="canal").trace("web-0", "api-0:9000")
    mo.md(
        f"""
    ## Change one thing

    Calico's policy engine on Flannel's network: Canal.

    Now **{other.verdict}**: {other.reason}
    """
    )
    return (other,)


@app.cell
def _(mo, other, told):
    # question, answers, the right one, and whether the cluster says so, too
    checks = [
        (
            "How do you notice in a real cluster?",
            ["kubectl describe networkpolicy says it", "netlab lint, or a test that must fail"],
            1,
            bool(told.verdict == "delivered" and other.verdict == "dropped"),
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
