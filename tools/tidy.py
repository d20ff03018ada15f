"""clang-tidy over src/, for ./run lint: the files whose text, included headers of src/, compile command or checks
differ from when they were last clean; --all takes every file. What was clean is kept in build/lint/clean.json.

Files of one folder are read as one unit, since nearly all the time goes into the headers that they share. A file
that does not compile in the unit (two files may use one name for different things) is read alone.

    python3 tools/tidy.py [--all] [--fix] [--jobs N] [PREFIX...]     PREFIX: only files whose path begins so
"""
import argparse
import concurrent.futures
import hashlib
import json
import pathlib
import re
import shlex
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = ROOT / 'build/lint'
CLEAN = BUILD / 'clean.json'
UNIT_FILES = 10
INCLUDE = re.compile(rb'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


def read_commands():
    """Path under the project: the compiler's arguments, without input and output."""
    commands = {}
    for entry in json.loads((BUILD / 'compile_commands.json').read_text()):
        path = pathlib.Path(entry['file'])
        if ROOT / 'src' not in path.parents or not path.exists():
            continue
        words = shlex.split(entry['command'])
        words = words[next(i for i, word in enumerate(words) if word.endswith('clang++')) + 1:]
        with_value = {i for i, word in enumerate(words) if word in ('-o', '-c', '-MF', '-MT')}
        commands[str(path.relative_to(ROOT))] = [word for i, word in enumerate(words) if i not in with_value
                                                 and i - 1 not in with_value and word != '-MD']
    return commands


def sources_of(path, seen):
    """The file and the headers under src/ that it includes, directly or not."""
    if path in seen or not path.is_file():
        return seen
    seen.add(path)
    for name in INCLUDE.findall(path.read_bytes()):
        sources_of(ROOT / 'src' / name.decode(), seen)
    return seen


def key_of(name, command):
    digest = hashlib.sha256(' '.join(command).encode() + (ROOT / '.clang-tidy').read_bytes())
    for source in sorted(sources_of(ROOT / name, set())):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def units_of(names, commands, size):
    """Lists of files of one folder and one command."""
    units = {}
    for name in names:
        units.setdefault((pathlib.Path(name).parent, *commands[name]), []).append(name)
    return [unit[i:i + size] for unit in units.values() for i in range(0, len(unit), size)]


def tidy(path, command, *options):
    result = subprocess.run(['clang-tidy-14', '--quiet', f'--config-file={ROOT}/.clang-tidy', *options, path, '--',
                             *command], capture_output=True, text=True, cwd=ROOT)
    return result.returncode == 0, result.stdout or (result.stderr if result.returncode else '')


def check(unit, commands, fix):
    """The files of the unit that are not clean, and what there is to say."""
    if len(unit) == 1:
        is_clean, text = tidy(ROOT / unit[0], commands[unit[0]], *(['--fix'] if fix else []))
        return [] if is_clean else unit, text
    path = BUILD / f'unit_{hashlib.sha256(unit[0].encode()).hexdigest()[:12]}.cpp'
    path.write_text(''.join(f'#include "{ROOT / name}"\n' for name in unit))
    is_clean, text = tidy(path, commands[unit[0]], '--checks=-bugprone-suspicious-include')
    path.unlink()
    apart = [name for name in unit if re.search(f'{re.escape(name)}:.*clang-diagnostic-error', text)]
    if not apart and 'clang-diagnostic-error' in text:  # in a header, as it seems
        apart = unit
    if not apart:
        return [] if is_clean else unit, text
    parts = [[name] for name in apart] + [[name for name in unit if name not in apart]]
    results = [check(part, commands, fix) for part in parts if part]
    return [name for failed, _ in results for name in failed], ''.join(text for _, text in results)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--all', action='store_true')
    parser.add_argument('--fix', action='store_true')
    parser.add_argument('--jobs', type=int, default=1)
    parser.add_argument('prefix', nargs='*', default=['src/'])
    arguments = parser.parse_args()

    commands = read_commands()
    clean = json.loads(CLEAN.read_text()) if CLEAN.exists() else {}
    keys = {name: key_of(name, command) for name, command in sorted(commands.items())
            if name.startswith(tuple(arguments.prefix))}
    due = [name for name, key in keys.items() if arguments.all or clean.get(name) != key]
    print(f'{len(due)} of {len(keys)} files', file=sys.stderr, flush=True)

    start, failed = time.time(), []
    with concurrent.futures.ThreadPoolExecutor(1 if arguments.fix else arguments.jobs) as pool:
        units = units_of(due, commands, 1 if arguments.fix else UNIT_FILES)
        tasks = {pool.submit(check, unit, commands, arguments.fix): unit for unit in units}
        for done in concurrent.futures.as_completed(tasks):
            not_clean, text = done.result()
            failed += not_clean
            clean |= {name: keys[name] for name in tasks[done] if name not in not_clean}
            CLEAN.write_text(json.dumps(clean, indent=0, sort_keys=True))
            if text:
                print(text, flush=True)
    print(f'{len(due)} files, {"all clean" if not failed else "see above"}, {time.time() - start:.0f} s',
          file=sys.stderr)
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
