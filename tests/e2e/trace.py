"""trace.py FILE RANKS MICROS [PROPERTY...] - checks a timeline of m2 bench step: that it is whole, that each lane does one call
after the other and no call begins before what it waits for, and that, at least somewhere, communication runs beside compute:

  reduce   a gradient bucket's reduction begins before the backward pass of the first block has ended
  gather   a forward pass begins before the last parameters of the update before it have arrived
  groups   an exchange of one group is under way while another group is convolved
  weights  gradients of weights are computed while an exchange is under way
"""
import collections
import json
import sys

SLACK = 1.5  # microseconds: what the clock of a GPU's events cannot tell apart
STEPS = 3
COMPUTE, EXCHANGE, REDUCE, HOST = 0, 1, 2, 10


def fail(*words):
    sys.exit("FAILED: " + " ".join(str(w) for w in words))


def end(e):
    return e["ts"] + e["dur"]


def check_whole(runs, micros):
    """Every call once in each microbatch, or step."""
    calls = 1 + max(e["args"]["call"] for e in runs)
    count = collections.Counter((e["args"]["call"], e["args"]["step"], e["args"]["micro"]) for e in runs)
    for (call, step, micro), n in count.items():
        if n != 1:
            fail("call", call, "ran", n, "times in step", step)
    per_call = collections.Counter(e["args"]["call"] for e in runs)
    for call in range(calls):
        if per_call[call] not in (STEPS, STEPS * micros):
            fail("call", call, "ran", per_call[call], "times in", STEPS, "steps")
    return calls


def check_lanes(events):
    lanes = collections.defaultdict(list)
    for e in events:
        lanes[e["pid"], e["tid"]].append(e)
    for (rank, lane), runs in lanes.items():
        runs.sort(key=lambda e: (e["ts"], end(e)))
        for a, b in zip(runs, runs[1:]):
            if b["ts"] < end(a) - SLACK:
                fail("rank", rank, "lane", lane, a["name"], "and", b["name"], "at once:", a, b)


def check_order(runs):
    """What a call needs of the other lanes is done before it begins."""
    done = {}
    for e in runs:
        done[e["args"]["call"], e["args"]["step"], e["args"]["micro"]] = end(e)
    for e in runs:
        a = e["args"]
        needed = []
        needed += [done[a[k], a["step"], a["micro"]] for k in ("after", "after_sum") if k in a]
        if "after_gather" in a and a["step"] > 0 and a["micro"] == 0:
            needed.append(done[a["after_gather"], a["step"] - 1, 0])
        if any(e["ts"] < t - SLACK for t in needed):
            fail(e["name"], "begins before what it waits for has ended:", e)
    compute = [e for e in runs if e["tid"] == COMPUTE]
    for e in runs:
        if e["tid"] == COMPUTE:
            continue
        before = [c for c in compute if c["args"]["step"] == e["args"]["step"] and c["args"]["call"] < e["args"]["call"]
                  and c["args"]["micro"] == e["args"]["micro"]]
        if before and e["ts"] < max(end(c) for c in before) - SLACK:
            fail(e["name"], "begins before what is ahead of it in the plan has ended:", e)


def in_step(runs, step, lane, test):
    return [e for e in runs if e["args"]["step"] == step and e["tid"] == lane and test(e)]


def reduces_beside(runs, micros):
    for s in range(STEPS):
        reductions = in_step(runs, s, REDUCE, lambda e: e["name"].startswith("gradients."))
        backward = in_step(runs, s, COMPUTE, lambda e: e["args"]["region"] == "backward" and e["name"].startswith("block.0.")
                           and e["args"]["micro"] == micros - 1)
        first = max(end(e) for e in backward)
        yield sum(r["ts"] < first for r in reductions)


def gathers_beside(runs, micros):
    for s in range(1, STEPS):
        gathers = in_step(runs, s - 1, REDUCE, lambda e: e["args"]["region"] == "update")
        forward = in_step(runs, s, COMPUTE, lambda e: e["args"]["region"] == "forward" and e["args"]["micro"] == 0)
        yield max(end(e) for e in gathers) > min(e["ts"] for e in forward)


def exchanges_beside(runs, ops):
    for s in range(STEPS):
        exchanges = in_step(runs, s, EXCHANGE, lambda e: e["args"]["bytes"] > 0)
        calls = in_step(runs, s, COMPUTE, lambda e: e["args"]["op"].startswith(ops))
        if not exchanges or not calls:
            fail("no exchanges on their lane, or none of", ops)
        yield sum(min(end(x), end(c)) > max(x["ts"], c["ts"]) for x in exchanges for c in calls)


def groups_beside(runs, micros):
    return exchanges_beside(runs, ("longconv", "cyclic"))


def weights_beside(runs, micros):
    return exchanges_beside(runs, ("linear_grad",))


PROPERTIES = {"reduce": reduces_beside, "gather": gathers_beside, "groups": groups_beside, "weights": weights_beside}


def main():
    path, ranks, micros = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with open(path) as f:
        events = [e for e in json.load(f)["traceEvents"] if e["ph"] == "X"]
    if {e["pid"] for e in events} != set(range(ranks)):
        fail("ranks", {e["pid"] for e in events})
    check_lanes(events)
    per_rank = [[e for e in events if e["pid"] == r and e["tid"] < HOST] for r in range(ranks)]
    calls = {check_whole(runs, micros) for runs in per_rank}
    if len(calls) != 1:
        fail("ranks have other calls:", calls)
    for runs in per_rank:
        check_order(runs)
    found = []
    for name in sys.argv[4:]:
        seen = sum(sum(PROPERTIES[name](runs, micros)) for runs in per_rank)
        if not seen:
            fail(name, ": nothing runs beside compute, in", STEPS, "steps of", ranks, "ranks")
        found.append(f"{name} {seen} times beside")
    print(f"  {path}: {calls.pop()} calls, {len(events)} events;", ", ".join(found) or "nothing beside")


main()
