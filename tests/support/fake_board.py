"""A board's sensors: the files that a kernel would show, and a vcgencmd."""

import shlex
from pathlib import Path


class Board:
    def __init__(self, sysfs: Path) -> None:
        self.sysfs = sysfs

    def write(self, file: str, value: object) -> None:
        """A file below sysfs, replaced at once."""
        path = self.sysfs / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".new").write_text(f"{value}\n")
        path.with_suffix(".new").rename(path)

    def heat(self, celsius: float, zone: int = 0) -> None:
        self.write(f"class/thermal/thermal_zone{zone}/temp", round(celsius * 1000))


def write_vcgencmd(folder: Path, **answers: str) -> Path:
    """A program that answers as told, and refuses all else as a Pi does; its folder, for PATH."""
    cases = "\n".join(f"{what}) echo {shlex.quote(answer)} ;;" for what, answer in answers.items())
    folder.mkdir(exist_ok=True)
    program = folder / "vcgencmd"
    program.write_text(f"""#!/bin/sh
echo "$1" >> {folder}/asked
case "$1" in
{cases}
*) echo 'error=1 error_msg="Command not registered"' ;;
esac
""")
    program.chmod(0o755)
    return folder
