"""What several benchmarks do with a side's process."""

import pathlib
import re
import subprocess
import sys
import tempfile
import time


def processes_below(pid):
    try:
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(p for child in children for p in processes_below(int(child)))]


def anonymous_bytes(pid):
    """RssAnon of a process and all below it."""
    total = 0
    for process in processes_below(pid):
        try:
            found = re.search(r"RssAnon:\s+(\d+)", pathlib.Path(f"/proc/{process}/status").read_text())
        except OSError:
            continue
        total += int(found[1]) * 1024 if found else 0
    return total


def run(command, text="", interval=0.02):
    """Seconds, peak anonymous memory, looked at every `interval` seconds, and standard output of a command."""
    with tempfile.TemporaryFile("w+") as log, tempfile.TemporaryFile("w+") as words, tempfile.TemporaryFile("w+") as out:
        words.write(text)
        words.seek(0)
        begin, peak = time.monotonic(), 0
        process = subprocess.Popen(list(map(str, command)), stdin=words, stdout=out, stderr=log)
        while process.poll() is None:
            peak = max(peak, anonymous_bytes(process.pid))
            time.sleep(interval)
        seconds = time.monotonic() - begin
        if process.returncode != 0:
            log.seek(0)
            sys.exit(f"{' '.join(map(str, command))}\nfailed:\n{log.read()[-3000:]}")
        out.seek(0)
        return seconds, peak, out.read()
