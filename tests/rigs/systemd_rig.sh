#!/usr/bin/env bash
# The unit, under a real systemd: Debian 12 booted in a container without network, syncd installed by
# the documented commands, an emulator beside it. Root; under three minutes. See machine.sh.
# row: 52
source "$(dirname "$0")/machine.sh"

# The lowest that a service can reach that reads folders of others and speaks to the Internet.
MOST_EXPOSURE=1.1
# With both drop-ins.
MOST_HOME_EXPOSURE=1.2

# promtool, without the service that its package would start.
make_promtool() {
  mkdir "$1" && cd "$1" || return
  apt-get download prometheus || { apt-get update && apt-get download prometheus; } || return
  dpkg -x prometheus_*.deb . && rm prometheus_*.deb; local code=$?
  cd "$root" && return $code
}

show() { inside systemctl show --value -p "$1" syncd; }
journal() { inside journalctl -q --no-pager -u syncd -o "${1:-cat}"; }
syncd() { inside /opt/syncd/bin/syncd "$@"; }
# listed PATH: its uuid in the manifest, and only if it is synced.
listed() { line "/opt/syncd/bin/syncd ls --json --status synced" | python3 -c '
import json, sys
print(*[e["file_uuid"] for e in map(json.loads, sys.stdin) if e["path"] == sys.argv[1]])' "$1"; }
agrees() { has_one "$2" && is "$(live "$2")" listed "$1"; }

# fails_with TEXT: its end is final (RestartSec is 1 here), and the journal says why.
fails_with() {
  inside systemctl restart syncd
  eventually 20 is failed show ActiveState && is 78 show ExecMainStatus || return
  sleep 3
  is failed show ActiveState && is 0 show NRestarts && says "$1" journal
}
repaired() { inside systemctl restart syncd && is active show ActiveState; }

# Its states, as they come, from a restart until it is active.
seen_starting() {
  inside bash -c 'systemctl restart --no-block syncd
    until [[ $state == active && $last != active && -n $last ]]; do
      last=$state state=$(systemctl show --value -p ActiveState syncd)
      [[ $state == "$last" ]] || echo "$state"
    done'
}
# Milliseconds from its process to READY=1.
start_ms() {
  echo $((($(show ActiveEnterTimestampMonotonic) - $(show ExecMainStartTimestampMonotonic)) / 1000))
}

### What can be said of the unit with nothing running

started=$(date +%s)
cached promtool make_promtool
sed "s|RULES|$root/systemd/syncd.rules.yml|" "$root/tests/rigs/alerts.yml" >"$scratch/alerts.yml"
check "promtool accepts the alert rules" "$cache/promtool/usr/bin/promtool" check rules "$root/systemd/syncd.rules.yml"
check "each alert fires, and heals" "$cache/promtool/usr/bin/promtool" test rules "$scratch/alerts.yml"
prepare
echo "      made the machine in $(($(date +%s) - started)) s"

began=$(date +%s%N)
boot
echo "      booted in $((($(date +%s%N) - began) / 1000000)) ms: $(inside systemctl --version | head -n 1)"

furnish
line "mkdir -p /srv/drop /etc/systemd/system/syncd.service.d"
# What the rig alone needs: the emulator instead of the service, and shorter waits.
line "cat >/etc/systemd/system/syncd.service.d/rig.conf" <<END
[Service]
Environment=SYNCD_API__BASE_URL=$URL SYNCD_DELETIONS__GRACE_SECONDS=2 SYNCD_RIG=odd
Environment=SYNCD_UPLOAD__RESEND_AFTER_SECONDS=5
RestartSec=1
WatchdogSec=10
END
check "the emulator answers" eventually 30 emulator live

### The documented commands

write one.txt "the first"
echo "      + the documented commands:"; block systemd | sed 's/^/      | /'
check "the documented commands install and start it" admin "cd ~/syncd; $(block systemd)"
check "systemd-analyze verify has nothing to say" is "" inside bash -c 'systemd-analyze verify --man=no syncd.service 2>&1'
exposure=$(inside systemd-analyze security --no-pager syncd.service | sed -n 's/.*exposure level for .*: \([0-9.]*\) .*/\1/p')
check "its exposure is $exposure, at most $MOST_EXPOSURE" \
  inside systemd-analyze security --no-pager --threshold="${MOST_EXPOSURE/./}" syncd.service
check "its memory is bounded" is 536870912 show MemoryMax
check "and so are its tasks" is 256 show TasksMax
check "it is active, and enabled" is $'active\nenabled' inside bash -c 'systemctl is-active syncd; systemctl is-enabled syncd'

### What it does

check "a file arrives, with the key of LoadCredential" eventually 30 has_one "the first"
check "root sees it in 'syncd ls', with its uuid" eventually 20 agrees one.txt "the first"
check "the documented status command says that all is well" admin "sudo /opt/syncd/bin/syncd status"
check "systemctl status shows a line of its own" says 'Status: "' inside systemctl status --no-pager syncd
check "the status line counts the file" eventually 10 says "1 synced" show StatusText
check "the folder is watched by inotify" says '"watch": "native"' syncd status --json
check "its user is its own" line '(($(stat -c %u /var/lib/syncd/state.db) >= 61184))'
check "the state is 0700, its files 0600" is $'700\n600' inside stat -c %a /var/lib/private/syncd /var/lib/syncd/state.db
check "an ordinary user sees none of it, and is told why" \
  admin '! told=$(/opt/syncd/bin/syncd status 2>&1) && [[ $told == *ermission* || $told == *sudo* ]] || { echo "$told"; false; }'
check "its environment holds no key" line "! grep -q '$KEY' /proc/$(show MainPID)/environ"
check "its log is the journal's, with priorities" line \
  'test "$(journalctl -q -u syncd -o cat PRIORITY=6 | grep -c "^watching /srv/drop as drop$")" = 1 \
     && journalctl -q -u syncd -o cat PRIORITY=4 | grep -q SYNCD_RIG'
check "a second instance ends with 75" exits 75 \
  line "AYMARA_AI_API_KEY=another SYNCD_API__BASE_URL=$URL /opt/syncd/bin/syncd run"

first=$(live "the first")
write one.txt "the second"
check "a change becomes a new copy" eventually 30 agrees one.txt "the second"
check "the old copy goes" eventually 20 has_none "the first"
check "the new copy has a new uuid" test "$first" != "$(live "the second")"
line "rm /srv/drop/one.txt"
check "a deleted file's copy goes after the grace" eventually 30 has_none "the second"

line "groupadd media && printf %s shared >/srv/drop/shared.txt && chown root:media /srv/drop/shared.txt && chmod 640 /srv/drop/shared.txt"
sleep 6
check "a group's file is out of reach, and harms nothing" eval 'has_none shared && is active show ActiveState'
line "useradd --create-home bob && chmod 711 /home/bob && install -d -o bob -m 755 /home/bob/out && printf %s 'from home' >/home/bob/out/home.txt
  printf '[[folders]]\npath = \"/home/bob/out\"\n' >>/etc/syncd/syncd.toml && systemctl reload syncd"
check "a folder in /home is out of reach without its drop-in" eventually 20 says "cannot be listed" syncd status
check "the documented drop-ins are installed" admin "cd ~/syncd; $(block drop-in)"
check "group.conf without a group harms nothing" eventually 20 is active show ActiveState
line "sed -i 's/^#Supp/Supp/' /etc/systemd/system/syncd.service.d/group.conf && systemctl daemon-reload && systemctl restart syncd"
check "with group.conf, the group's file arrives" eventually 30 has_one shared
check "with home.conf, the file in /home arrives" eventually 30 has_one "from home"
check "and all is well" eventually 20 syncd status
check "its exposure is still at most $MOST_HOME_EXPOSURE" \
  inside systemd-analyze security --no-pager --threshold="${MOST_HOME_EXPOSURE/./}" syncd.service
line "mkdir /srv/drop/card && mount -t tmpfs none /srv/drop/card && touch /srv/drop/card/photo.txt"
check "what is mounted later is within its sight" line "test -e /proc/$(show MainPID)/root/srv/drop/card/photo.txt"
line "umount /srv/drop/card && rmdir /srv/drop/card"

### What it tells

check "the journal has an upload's facts as fields" line "journalctl -q -u syncd -o json SYNCD_EVENT=uploaded | head -n 1 | python3 -c '
import json, sys
facts = json.loads(sys.stdin.readline())
assert facts[\"PRIORITY\"] == \"6\" and facts[\"SYNCD_PATH\"] == \"one.txt\", facts
assert facts[\"SYNCD_BYTES\"] == \"9\" and facts[\"SYNCD_FILE_UUID\"] and facts[\"SYNCD_REQUEST_ID\"], facts'"
check "doctor finds nothing wrong" line "AYMARA_AI_API_KEY_FILE=/etc/syncd/aymara-api-key SYNCD_API__BASE_URL=$URL /opt/syncd/bin/syncd doctor"
check "root, who has no key, may ask the doctor, and give commands" line \
  "export SYNCD_API__BASE_URL=$URL; /opt/syncd/bin/syncd doctor && /opt/syncd/bin/syncd retry && /opt/syncd/bin/syncd verify"
check "with a wrong key it ends with 77" exits 77 line "AYMARA_AI_API_KEY=another SYNCD_API__BASE_URL=$URL /opt/syncd/bin/syncd doctor"

### How it reloads

pid=$(show MainPID)
ask() { inside python3 -c 'import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=5).read().decode())' "http://127.0.0.1:8766$1"; }
reloaded() { inside systemctl reload syncd && eventually 10 is active show ActiveState && is "$pid" show MainPID; }
line "printf '[server]\nlisten = \"127.0.0.1:8766\"\n' >>/etc/syncd/syncd.toml; mkdir /srv/more; printf '[[folders]]\npath = \"/srv/more\"\n' >>/etc/syncd/syncd.toml"
check "a reload keeps the process" reloaded
line "printf %s more >/srv/more/more.txt"
check "and takes up another folder" eventually 30 has_one more
check "and the listener: healthz" eventually 10 is ok ask /healthz
check "readyz" says '"ready":true' ask /readyz
check "metrics" says 'syncd_files{folder="more",status="synced"} 1.0' ask /metrics
line "cp -a /etc/syncd/syncd.toml /root/good.toml; echo 'colour = 1' >>/etc/syncd/syncd.toml"
check "a reload with a bad configuration fails" eval '! inside systemctl reload syncd'
check "and its journal names the setting" eventually 10 says "colour: unknown setting" journal
check "and keeps the process" eval 'is active show ActiveState && is "$pid" show MainPID'
line "kill -HUP $pid"
check "a signal keeps the old configuration, loudly" eventually 10 says "not reloaded, the old configuration holds" journal
check "status names the setting" eventually 10 says "colour: unknown setting" syncd status
check "and the daemon works on" eventually 10 is ok ask /healthz
line "cp -a /root/good.toml /etc/syncd/syncd.toml"
check "put right, it reloads" reloaded
check "and all is well" eventually 20 syncd status

### Another one, by the template

line "install -D -m 600 /etc/syncd/aymara-api-key /etc/syncd/clips-api-key; mkdir /srv/clips; printf %s clip >/srv/clips/clip.txt
  printf '[state]\ndirectory = \"/var/lib/syncd-clips\"\n[[folders]]\npath = \"/srv/clips\"\n[api]\nbase_url = \"$URL\"\n' >/etc/syncd/clips.toml
  cp /source/systemd/syncd@.service /etc/systemd/system/ && systemctl daemon-reload && systemctl start syncd@clips"
check "a template's instance uploads, too" eventually 30 has_one clip
check "and has a state of its own" says "1 synced" inside /opt/syncd/bin/syncd -c /etc/syncd/clips.toml status
line "systemctl stop syncd@clips"

### How it starts, stops, and is started again

check "it is starting until it says that it is ready" says $'activating\nactive' seen_starting
echo "      ready $(start_ms) ms after its process was started"
emulator faults '[{"match": "POST /v2/files/-/uploads", "action": {"delay": 5}}]'
write drained.txt "in flight"
check "an upload is under way" eventually 20 says '"drained.txt"' syncd status --json
check "stop drains: exit 0, by SIGTERM" eval 'inside systemctl stop syncd && is 0 show ExecMainStatus && is success show Result && is inactive show ActiveState'
check "stop says so" says "stopping; what is on its way gets" journal
check "what was in flight arrived, once" eventually 5 has_one "in flight"
check "root may look while it is stopped" says "drained.txt" syncd ls
check "and it starts again after that" eval 'inside systemctl start syncd && eventually 20 agrees drained.txt "in flight"'

# Long enough to be seen on a busy machine.
emulator faults '[{"match": "POST /v2/files/-/uploads", "action": {"delay": 12}}]'
write killed.txt "cut off"
check "another upload is under way" eventually 20 says '"killed.txt"' syncd status --json
before=$(show NRestarts)
inside systemctl kill --kill-who=main --signal=KILL syncd
check "kill -9: systemd starts it again" eventually 20 eval '(($(show NRestarts) == before + 1)) && is active show ActiveState'
emulator faults '[]'
check "what was cut off is there once" eventually 70 agrees killed.txt "cut off"
sleep 2
check "nothing is there twice" is 6 eval 'emulator live | wc -l'

before=$(show NRestarts)
inside systemctl kill --kill-who=main --signal=STOP syncd
check "a hang is ended by the watchdog, and started again" eventually 30 eval '(($(show NRestarts) == before + 1)) && is active show ActiveState'
check "the journal has every thread of the hang" says "Fatal Python error: Aborted" journal

### What it refuses

line "cp -a /etc/syncd /root/etc-syncd; echo 'colour = \"red\"' >>/etc/syncd/syncd.toml"
check "an unknown setting: exit 78, said, and no restart" fails_with "colour: unknown setting"
line "cp -a /root/etc-syncd/. /etc/syncd/"
check "put right, it starts" repaired
line "rm /etc/syncd/aymara-api-key"
check "no key: exit 78, said, and no restart" fails_with "aymara-api-key"
line "cp -a /root/etc-syncd/. /etc/syncd/"
check "with its key back, it starts" repaired
line "mv /srv/drop /srv/away"
check "a folder that goes is a hold, and no end" eventually 30 says root_missing syncd status --json
line "mv /srv/away /srv/drop"
check "and heals" eventually 30 syncd status
check "nothing was deleted meanwhile" is 6 eval 'emulator live | wc -l'
check "the journal holds no traceback" line \
  '! journalctl -q -u syncd -o cat | grep -A 20 "^Traceback"'
report
