"""Python programs in forks of this process, which has imported PyTorch already.

Importing PyTorch takes most of the life of a small program. For whoever waits for a
fork, sends it signals or reads what it prints, it is a process as any other.
"""

import io
import logging
import os
import runpy
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable

import torch._dynamo  # the first optimizer of a process imports it
import torch.distributed.elastic.multiprocessing.subprocess_handler.subprocess_handler as starter
import torch.distributed.run as torchrun


def forked(line: list[str], *, env: dict, **more) -> subprocess.Popen:
    """Start `python [-u] PROGRAM ...` or `python -m torch.distributed.run ...`."""
    return subprocess.Popen(line, env=env, preexec_fn=lambda: become(line, env), **more)


def become(line: list[str], env: dict) -> None:
    """Go on as another program, and end with it: `exec` is never reached."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):  # those of a torchrun are not ours
        signal.signal(number, signal.SIG_DFL)
    logging.disable()  # its handlers hold files of this process
    os.closerange(3, 4096)
    os.environ.clear()
    os.environ.update(env)
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.FileIO(i, "w"), encoding="utf-8", write_through=True)
        for i in (1, 2)
    )
    words = [word for word in line[1:] if word != "-u"]
    if words[:2] == ["-m", torchrun.__name__]:
        starter.Popen = lambda args, **more: forked([*args], **more)
        leave(lambda: torchrun.main(words[2:]))
    sys.argv = words
    sys.modules.pop("minigpt", None)
    torch.set_num_threads(int(env["OMP_NUM_THREADS"]))
    leave(lambda: runpy.run_path(words[0], run_name="__main__"))


def leave(program: Callable[[], object]) -> None:
    """Run a program, and end this process as Python would."""
    status = 1
    try:
        program()
        status = 0
    except SystemExit as end:
        status = end.code or 0
        if isinstance(status, str):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)
