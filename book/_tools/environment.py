"""Make the folder .venv for the Makefile.

    PYTHON book/_tools/environment.py check        what this Python lacks, in a line
    PYTHON book/_tools/environment.py other .venv  "anew", unless .venv is fit for it
    PYTHON book/_tools/environment.py make .venv   make it anew, unless it is

An environment is fit if a Python of the same version made it and what was
installed first came to its end: until then it holds a file `unfinished`.
Every Python can read this, also one that is too old for the rest.
"""

import os
import shutil
import subprocess
import sys

NEEDED = (3, 11)
VERSION = "import sys; print('%d.%d' % sys.version_info[:2])"


def lacks():
    """What keeps this Python from making the environment, or nothing."""
    version = "%d.%d" % tuple(sys.version_info[:2])
    if sys.version_info[:2] < NEEDED:
        return (
            "Python %d.%d or later is needed, and this is %s: "
            "give another, as in make PYTHON=python3.12" % (NEEDED + (version,))
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError as error:
        return (
            "Python %s lacks a part (%s): on Debian and Ubuntu, "
            "sudo apt install python%s-venv" % (version, error, version)
        )
    return ""


def fit(folder):
    """Did a Python like this one make the environment, and whole?"""
    python = os.path.join(folder, "bin", "python")
    try:
        made_by = subprocess.check_output([python, "-c", VERSION])
    except (OSError, subprocess.CalledProcessError):
        return False
    return made_by.decode().strip() == "%d.%d" % tuple(
        sys.version_info[:2]
    ) and not os.path.exists(os.path.join(folder, "unfinished"))


def make(folder):
    """Make an environment that is unfinished until the Makefile says it is not."""
    if os.path.islink(folder):
        os.remove(folder)  # what it leads to is somebody's
    elif os.path.exists(folder):
        shutil.rmtree(folder)
    os.mkdir(folder)
    open(os.path.join(folder, "unfinished"), "w").close()
    return subprocess.call([sys.executable, "-m", "venv", folder])


if __name__ == "__main__":
    if sys.argv[1:] == ["check"]:
        print(lacks())
    elif sys.argv[1] == "other":
        print("" if fit(sys.argv[2]) else "anew")
    elif not fit(sys.argv[2]):
        sys.exit(make(sys.argv[2]))
