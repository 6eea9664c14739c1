#!/usr/bin/env bash
# The units that `syncd init --systemd` prints: booted, on a machine that has the wheel alone. One for
# the system, one for a user's folder in a home of mode 0700, before and after a reboot. Root; about a
# minute. See machine.sh.
# row: 52
source "$(dirname "$0")/machine.sh"

prepare
boot
furnish
# What the rig alone needs: the emulator instead of the service, and a shorter grace.
export_rig="export SYNCD_API__BASE_URL=$URL SYNCD_DELETIONS__GRACE_SECONDS=2"
line "sed -i '/^AYMARA\|^SYNCD/d' /etc/environment; useradd --create-home --shell /bin/bash ada && chmod 700 /home/ada"
check "the emulator answers" eventually 30 emulator live

### The wheel alone

line "python3 -m venv /tmp/build && /tmp/build/bin/pip wheel -q --no-deps -w /opt/dist /home/admin/syncd \
  && rm -rf /home/admin/syncd && python3 -m venv /opt/syncd && /opt/syncd/bin/pip install -q /opt/dist/syncd-*.whl \
  && ln -s /opt/syncd/bin/syncd /usr/bin/syncd" >"$scratch/wheel.log" 2>&1 \
  || { cat "$scratch/wheel.log"; give_up "the wheel cannot be installed"; }
check "the wheel holds what init prints" line \
  "syncd init --prometheus-rules | grep -q SyncdDown && syncd init --systemd --drop-in backoff | grep -q RestartSteps"

### A unit of the system's manager, for a folder whose files are moved by their owner

line "install -d -o admin -m 700 /home/admin/in /home/admin/sent && install -d -m 755 /etc/syncd
  install -m 600 /dev/stdin /etc/syncd/aymara-api-key <<< '$KEY'
  cat >/etc/syncd/syncd.toml" <<'TOML'
[state]
directory = "/var/lib/syncd"
[[folders]]
path = "/home/admin/in"
after_upload = "move"
move_to = "/home/admin/sent"
settle_seconds = 1
TOML
check "the documented commands print a unit and start it" line "$export_rig; $(block own-unit | sed 's/sudo //g')"
check "systemd-analyze verify has nothing to say" is "" inside bash -c 'systemd-analyze verify --man=no syncd.service 2>&1'
check "it runs as the folder's owner" is admin line 'ps -o user= -p $(systemctl show --value -p MainPID syncd)'
line "runuser -u admin -- sh -c 'printf %s moved >/home/admin/in/a.txt'"
check "a file in a home of mode 0700 arrives" eventually 30 has_one moved
check "and is moved, which its unit allows" eventually 20 line "test -e /home/admin/sent/a.txt && ! test -e /home/admin/in/a.txt"
check "it may write nowhere else" line '! nsenter -t $(systemctl show --value -p MainPID syncd) -m -- touch /home/admin/other'

### A folder of root's that a group may read, and the documented removal

line "systemctl stop syncd; groupadd media; install -d -g media -m 2750 /srv/media
  (umask 027; printf %s grouped >/srv/media/g.txt)
  cat >/etc/syncd/syncd.toml" <<'TOML'
[state]
directory = "/var/lib/syncd-media"
[[folders]]
path = "/srv/media"
settle_seconds = 1
TOML
check "the same commands print a unit for the group's folder" line "$export_rig; $(block own-unit | sed 's/sudo //g') && systemctl restart syncd"
check "the file that only the group may read arrives" eventually 30 has_one grouped
check "a printed drop-in is installed by its first line" line \
  "syncd init --systemd --drop-in backoff | install -D -m 644 /dev/stdin /etc/systemd/system/syncd.service.d/backoff.conf"
check "the state lies in /var/lib/private" line 'test -L /var/lib/syncd-media && test -e /var/lib/private/syncd-media/state.db'
check "removed as documented, the state stays and nothing else does" line \
  'systemctl disable -q --now syncd && rm -r /etc/systemd/system/syncd.service* && systemctl daemon-reload \
    && test -e /var/lib/private/syncd-media/state.db && ! systemctl cat syncd 2>/dev/null'

### A unit of a user's own manager

as_ada() {
  inside runuser -u ada -- env HOME=/home/ada USER=ada AYMARA_AI_API_KEY="$KEY" \
    XDG_RUNTIME_DIR="/run/user/$(inside id -u ada)" bash -euc "$export_rig; $1"
}
line "loginctl enable-linger ada"
check "linger starts the user's manager" eventually 20 as_ada 'systemctl --user is-system-running | grep -E "running|degraded"'
echo "      + the documented commands:"; block user-unit | sed 's/^/      | /'
check "the documented commands install and start it" as_ada "$(block user-unit | sed 's/^sudo loginctl .*//')"
check "systemd-analyze verify has nothing to say of it" is "" \
  as_ada 'systemd-analyze --user verify --man=no ~/.config/systemd/user/syncd.service 2>&1'
check "it is active, and enabled" is $'active\nenabled' as_ada 'systemctl --user is-active syncd; systemctl --user is-enabled syncd'
as_ada 'printf %s before >~/drop/one.txt'
check "a file arrives from a home of mode 0700" eventually 30 has_one before
check "its owner sees that all is well" eventually 20 as_ada 'syncd -c ~/.config/syncd/syncd.toml status'
check "the mode of the home is as it was" is 700 inside stat -c %a /home/ada
check "a reload keeps the process" as_ada '
  pid=$(systemctl --user show --value -p MainPID syncd)
  systemctl --user reload syncd && sleep 1 && test "$pid" = "$(systemctl --user show --value -p MainPID syncd)"'
uuid=$(live before)
power_off
boot
serve
check "after a reboot the emulator answers" eventually 30 emulator live
check "after a reboot nobody is logged in, and it runs" eventually 30 as_ada 'systemctl --user is-active syncd'
as_ada 'printf %s after >~/drop/two.txt'
check "a new file arrives" eventually 40 has_one after
check "the first one was not sent again" is "$uuid" live before
check "and all is well" eventually 20 as_ada 'syncd -c ~/.config/syncd/syncd.toml status'
check "it stops cleanly" as_ada 'systemctl --user stop syncd && test "$(systemctl --user show --value -p Result syncd)" = success'
report
