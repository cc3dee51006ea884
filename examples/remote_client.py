"""Step a world that another process serves. It needs no PyTorch.

pip install './clients/python[jpeg]'         # in an environment without PyTorch
worldsim serve doom-maze                    # in one terminal
python examples/remote_client.py doom-maze  # in another
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from worldsim.bridge.client import Client
from worldsim.controls import Control


def main(arguments: Sequence[str] | None = None) -> int:
    """Open a session, step it, fork it, and step the branches in one message."""
    parser = argparse.ArgumentParser(description="Step a served world.")
    parser.add_argument(
        "address", help="name of a world served on this machine, or ipc://PATH, tcp://HOST:PORT"
    )
    options = parser.parse_args(arguments)

    with Client(options.address, name="example") as client:
        actions = client.world.control_space.discrete_actions
        session = client.open(seed=7)
        for keys in actions:
            step = session.step(Control(keys))
            print(f"frame {step.index} {'+'.join(sorted(keys)) or 'no key'}: reward {step.reward:.2f}")

        branches = session.fork(2)
        later = session.step_async(Control(), codec="jpeg")  # does not wait
        steps = client.step_many({branch: Control(actions[-1]) for branch in branches})
        print(f"{len(steps)} branches at frame {steps[branches[0]].index}")
        print(f"frame {later.result().index} came as JPEG")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
