"""Lesson 11: iptables, nftables, IPVS: what a lookup costs. `netlab learn 11` opens it; as a script it runs through and checks itself."""

import marimo

__generated_with = "0.25.2"
app = marimo.App(
    width="medium",
    app_title="netlab 11: iptables, nftables, IPVS: what a lookup costs",
)


@app.cell
def _():
    import marimo as mo

    from netlab.bench.count import count
    from netlab.bench.site import Load, declared, service_ip, site
    from netlab.learn import marked, opinion

    return Load, count, declared, marked, mo, opinion, service_ip, site


@app.cell
def _(mo):
    mo.md("""
    # 11. iptables, nftables, IPVS: what a lookup costs

    A packet goes to the last of 1,000 services. How many rules does the kernel look at in iptables mode, and in nftables
    mode?
    """)
    return


@app.cell
def _(mo):
    guess = mo.ui.radio(
        ["1,000 and 1,000", "about 1,000 and about 15", "both about 15: rules are indexed"], label="What do you think?"
    )
    guess
    return (guess,)


@app.cell
def _(Load, count, declared, service_ip, site):
    counted = {mode: count(site(declared(Load(3), 1000), mode), service_ip(999)) for mode in ("iptables", "nftables", "ipvs")}
    return (counted,)


@app.cell
def _(counted, mo):
    mo.md(
        "\n".join(
            [
                "| mode | rules looked at | look-ups in sets, maps, tables |",
                "|---|---|---|",
                *(f"| {mode} | {float(c.new.rules):.0f} | {float(c.new.probes):.0f} |" for mode, c in counted.items()),
            ]
        )
    )
    return


@app.cell
def _(counted, guess, mo, opinion):
    said_so = opinion(guess, 1)
    mo.md(
        f"""
    ## The answer

    {said_so}iptables looks at **{float(counted["iptables"].new.rules):.0f}** rules, one after the other; nftables at
    {float(counted["nftables"].new.rules):.0f}, one of which looks the address up in a map; IPVS asks its hash table. An
    established flow costs {float(counted["iptables"].established.rules):.0f} rules: the nat table is asked for the first
    packet of a connection alone, and KUBE-FORWARD accepts the rest.
    """
    )
    return


@app.cell
def _(Load, count, declared, mo, service_ip, site):
    first = count(site(declared(Load(3), 1000), "iptables"), service_ip(0))
    mo.md(
        f"""
    ## Change one thing

    The first of 1,000 services instead of the last.

    Now iptables looks at {float(first.new.rules):.0f}. Measured times are in docs/performance.md; `netlab bench` measures
    yours.
    """
    )
    return


@app.cell
def _(counted, mo):
    # question, answers, the right one, and whether the cluster says so, too
    checks = [
        (
            "What grows with the number of services in nftables mode?",
            ["the rules that a packet passes", "the map that it is looked up in, which does not take longer"],
            1,
            bool(counted["nftables"].new.rules < 30),
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
