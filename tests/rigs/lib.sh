# What the rigs share: checks that are counted and told, waiting, and a place to keep what is costly.
# A rig sources it, and ends with `report`, whose last line is "N passed, M failed".
# shellcheck shell=bash

set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
passed=0 failed=0

# check WHAT COMMAND...: run it; what it printed is shown where it fails.
check() {
  local what=$1 output
  shift
  if output=$("$@" 2>&1); then
    passed=$((passed + 1)); echo "ok    $what"
  else
    failed=$((failed + 1)); echo "FAIL  $what"; sed 's/^/      | /' <<<"$output" | tail -n 20
  fi
}

# eventually SECONDS COMMAND...: run it again and again until it succeeds.
eventually() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    if ((SECONDS > deadline)); then
      echo "not within its time:"; "$@"; return
    fi
    sleep 0.3
  done
}

# is EXPECTED COMMAND...: its output is exactly that.
is() {
  local expected=$1 actual
  shift
  actual=$("$@")
  [[ $actual == "$expected" ]] || { echo "expected: $expected"; echo "got:      $actual"; return 1; }
}

# says TEXT COMMAND...: its output holds that.
says() {
  local text=$1 output
  shift
  output=$("$@" 2>&1)
  [[ $output == *"$text"* ]] || { echo "'$text' is not in:"; echo "$output"; return 1; }
}

# exits CODE COMMAND...
exits() {
  local expected=$1 code
  shift
  "$@"; code=$?
  ((code == expected)) || { echo "exit code $code, not $expected"; return 1; }
}

# block NAME: the commands, or the file, that a document shows under that marker.
block() { "${PYTHON:-python3}" "$root/tests/documents.py" "$1" || give_up "no document shows $1"; }

# cached NAME COMMAND...: make NAME in the cache by COMMAND, unless it is there.
cached() {
  local path=$cache/$1
  shift
  [[ -e $path ]] && return
  rm -rf "$path.new"
  "$@" "$path.new" >"$scratch/made.log" 2>&1 \
    || { tail -n 20 "$scratch/made.log"; give_up "cannot make $path"; }
  mv "$path.new" "$path"
}

give_up() { echo "$*" >&2; exit 2; }

report() { echo "$passed passed, $failed failed"; ((failed == 0)); }

[[ $(id -u) == 0 ]] || give_up "a rig needs root"
scratch=$(mktemp -d)
# Root filesystems and wheels, kept from run to run where SYNCD_RIG_CACHE names a directory.
cache=${SYNCD_RIG_CACHE:-$scratch/cache}
mkdir -p "$cache"
# What the wheels of a run depend on; for those that source this.
# shellcheck disable=SC2034
wanted=$(cat "$root"/{pyproject.toml,.ci/constraints*.txt} | sha256sum | cut -c -16)
