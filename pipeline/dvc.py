"""DVC's own command line at another scale or study than ``params.yaml`` names: `python -m pipeline.dvc --scale smoke repro`.

DVC takes both from ``params.yaml`` alone. Here the file is read with the two values replaced, in this process's memory; the file
itself is never written. The commands of the stages are handed both as arguments. ``dvc.lock`` is written beside and renamed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from lolm import LolmError
from pipeline.dvc_state import write_beside

PARAMS = Path("params.yaml")


class OverrideError(LolmError):
    """DVC does not read ``params.yaml`` where it used to."""


def override(values: dict[str, str]) -> None:
    """Let DVC, in this process, find these values at top-level keys of ``params.yaml``: for ``${}`` and for recorded parameters.

    Raises:
        OverrideError: this version of DVC reads its parameters in another way.
    """
    from dvc.dependency.param import read_param_file
    from dvc.fs import LocalFileSystem
    from dvc.parsing.context import Context
    from dvc.utils import serialize

    load, path = serialize.LOADERS[".yaml"], PARAMS.resolve()

    def loaded(fs_path: str, fs: Any = None, **options: Any) -> Any:
        content = load(fs_path, fs=fs, **options)
        ours = isinstance(fs, LocalFileSystem) and Path(fs_path).resolve() == path  # a file of another revision stays as it is
        return {**content, **values} if ours and isinstance(content, dict) else content

    serialize.LOADERS[".yaml"] = loaded
    files, names = LocalFileSystem(), list(values)
    if not PARAMS.exists():
        return
    recorded = read_param_file(files, str(path), names, flatten=True)
    interpolated = Context.load_from(files, str(path))
    if any(recorded.get(name) != values[name] or str(interpolated[name]) != values[name] for name in names):
        raise OverrideError(
            "this version of DVC does not let scale and study be chosen beside params.yaml; install the pinned version (`pip "
            "install -c constraints.txt -e .`), or set both in params.yaml and run `dvc repro`"
        )


def main(arguments: list[str]) -> int:
    """Run DVC; leading ``--scale`` and ``--study`` choose, all else is DVC's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", help="name under `scales` in params.yaml (default: its `scale`)")
    parser.add_argument("--study", help="name under `studies` in params.yaml (default: its `study`)")
    parser.add_argument("dvc", nargs=argparse.REMAINDER, help="a command of DVC with its arguments")
    args = parser.parse_args(arguments)
    values = {name: value for name, value in (("scale", args.scale), ("study", args.study)) if value}
    from dvc.cli import main as dvc

    write_beside()
    if values:
        try:
            override(values)
        except LolmError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    return dvc(args.dvc)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
