#!/usr/bin/env bash
# The status page in a real browser, over a real daemon and emulator: page.py drives it. Root (it
# installs Chromium where there is none); about a minute and a half. SYNCD_RIG_SHOTS=DIR keeps the
# screenshots; `journey`, `million` and `token` choose parts.
if [[ -z ${SYNCD_RIG_PRIVATE:-} ]]; then
  # The screenshots show paths: those of a server, which are not to be this machine's.
  exec env SYNCD_RIG_PRIVATE=yes unshare --mount --propagation slave bash -c \
    'mkdir -p /srv && mount -t tmpfs none /srv && exec bash "$@"' bash "$0" "$@"
fi
source "$(dirname "$0")/lib.sh"
trap 'rm -rf "$scratch"' EXIT

tools=(chromium fonts-inter fonts-noto-core)
if ! dpkg --status "${tools[@]}" >/dev/null 2>&1; then
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${tools[@]}"; } \
    >"$scratch/apt.log" 2>&1 || { tail -n 20 "$scratch/apt.log"; give_up "cannot install Chromium"; }
fi
# The wheel is installed, not the tree: the page must be in it.
make_browser() {
  "${PYTHON:-python3}" -m venv "$1" && "$1/bin/pip" install -q "$root[emulator]" 'playwright>=1.55,<2' 'axe-playwright-python>=0.1.4,<0.2'
}
python=${SYNCD_RIG_PYTHON:-}
if [[ -z $python ]]; then
  cached browser make_browser
  python=$cache/browser/bin/python
  # The environment may be an old one; what is tested is not.
  "$python" -m pip install -q --force-reinstall --no-deps "$root" || give_up "cannot install syncd"
fi
cd "$scratch" && timeout 600 "$python" "$root/tests/rigs/page.py" /srv "${SYNCD_RIG_SHOTS:-$scratch/shots}" "$@"
