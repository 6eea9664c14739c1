#!/usr/bin/env bash
# The Debian package: built on a Debian 12, installed on one that has nothing else of syncd, configured,
# reloaded, upgraded, put back, removed, installed again and purged; and installed where 0.1.0 had run. Root;
# under three minutes. See machine.sh.
# row: 28, 52
source "$(dirname "$0")/machine.sh"
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' "$root/syncd/__init__.py")
BEFORE=0.1.9

# on_debian COMMAND: with the release's own tools, without network, and with locked wheels alone.
on_debian() {
  systemd-nspawn -q --register=no --keep-unit --pipe --volatile=overlay --private-network -D "$rootfs" \
    --bind-ro="$scratch/source:/source" --bind="$scratch/source/packages:/packages" --bind-ro="$cache/wheels-$wanted:/wheels" \
    --setenv=PIP_NO_INDEX=yes --setenv=PIP_FIND_LINKS=/wheels bash -euc "$1" 2>&1
}
# older: the same under an older version, without building all of it again.
older() {
  on_debian "dpkg-deb -R /packages/$version/*.deb /tmp/tree && cd /tmp/tree && sed -i 's/^Version: [^-]*/Version: $BEFORE/' DEBIAN/control
    cd opt/syncd/lib/python3*/site-packages/syncd && sed -i 's/^__version__ = .*/__version__ = \"$BEFORE\"/' __init__.py
    python3 -m compileall -q -f --invalidation-mode unchecked-hash __init__.py
    mkdir /packages/$BEFORE && dpkg-deb -b -Zgzip -z1 /tmp/tree /packages/$BEFORE/syncd_$BEFORE.deb"
}
package() { echo "$scratch/source/packages/$1/"*.deb; }

show() { inside systemctl show --value -p "$1" "${2:-syncd}"; }
states() { line "systemctl is-enabled ${1:-syncd} || true; systemctl is-active ${1:-syncd} || true"; }
syncd() { inside syncd "$@"; }
# All that was sent, and all that is there.
remote() { emulator posts && emulator live; }
apt() { line "cd /source/packages && apt-get install -q -y --no-install-recommends $* </dev/null 2>&1"; }
# runs VERSION [INSTANCE]: the unit's process is of that version, by its own word; the command's says nothing of it.
runs() {
  is "$1 $(show MainPID "syncd${2:+@$2}")" inside python3 -c 'import json, sys
beat = json.load(open(sys.argv[1]))
print(beat["version"], beat["pid"])' "/var/lib/syncd${2:+-$2}/daemon.json"
}
# Every path on the machine, without those that other programs write and that the rig has brought.
inventory() {
  line 'find / -xdev \( -path /proc -o -path /sys -o -path /run -o -path /tmp -o -path /var/tmp -o -path /var/log -o -path /srv \
    -o -path /var/cache -o -path /var/lib/dpkg -o -path /var/lib/apt -o -path /var/lib/systemd/timers -o -path /var/lib/emulator \
    -o -path /opt/emulator -o -path /home -o -path /root -o -name __pycache__ \) -prune -o -print | sort'
}

prepare
cp -r "$root/tests/e2e/upgrade" "$scratch/source/"
began=$SECONDS
mkdir "$scratch/source/packages"
check "it is built, of nothing but what is named by hash" on_debian "cp -r /source /tmp/source && /tmp/source/.ci/deb /packages/$version"
older >"$scratch/older.log" || { cat "$scratch/older.log"; give_up "no older package can be made"; }
echo "      built in $((SECONDS - began)) s: $(du -h --apparent-size "$(package "$version")" | cut -f 1)"
check "lintian finds no error" lintian --allow-root --fail-on error "$(package "$version")"
check "it depends on the Python for which it was built, and on kill" is "python3 (>= 3.11), python3 (<< 3.12), libc6, procps" \
  dpkg-deb --field "$(package "$version")" Depends
boot
furnish
line "mkdir -p /srv/drop /etc/systemd/system/syncd.service.d
  apt-get purge -q -y --auto-remove python3-venv python3-pip" >"$scratch/purge.log" 2>&1 \
  || { cat "$scratch/purge.log"; give_up "the machine cannot be prepared"; }
# For the rig alone: the emulator instead of the service, and a shorter grace.
line "cat >/etc/systemd/system/syncd.service.d/rig.conf; install -D -t /etc/systemd/system/syncd@.service.d /etc/systemd/system/syncd.service.d/rig.conf" <<END
[Service]
Environment=SYNCD_API__BASE_URL=$URL SYNCD_DELETIONS__GRACE_SECONDS=2
END
check "the emulator answers" eventually 30 emulator live
inventory >"$scratch/before"

### Installed and configured by the documented commands

write one.txt "the first"
admin "cp /source/packages/$BEFORE/*.deb ~/"
install=$(block package | head -n 1)
check "it is installed, and says what it needs" says "/etc/syncd/aymara-api-key" admin "cd && $install"
check "it is enabled, and does not start without a key" is $'enabled\ninactive' states
echo "      + the documented commands:"; block package | sed 's/^/      | /'
check "they configure and start it" admin "cd; $(block package | tail -n +2)"
check "it is active, and enabled" is $'enabled\nactive' states
check "systemd-analyze verify has nothing to say" is "" inside bash -c 'systemd-analyze verify --man=no syncd.service 2>&1'
check "the first file arrives" eventually 30 has_one "the first"
check "the documented status command says that all is well" admin "sudo syncd status"
check "doctor finds nothing wrong" line "SYNCD_API__BASE_URL=$URL syncd doctor"
check "it runs without writing beneath /opt" is "" line 'find /opt/syncd -newer /var/lib/dpkg/info/syncd.list'

check "its man page is shown, with each command" line 'MANWIDTH=100 man --warnings syncd >/root/page 2>/root/warnings
  cat /root/warnings; ! test -s /root/warnings
  for name in $(syncd --help | sed -En "1,/^Commands/d; s/^  ([a-z]+) .*/\1/p"); do grep -q "^   syncd $name " /root/page || grep -q "^   syncd $name$" /root/page || exit 1; done'
check "bash completes" is "status" line 'source /usr/share/bash-completion/bash_completion; _completion_loader syncd || true
  COMP_WORDS=(syncd sta) COMP_CWORD=1; _syncd_completion syncd; echo "${COMPREPLY[@]}"'
check "fish completes" says status inside fish -c 'complete -C "syncd sta"'
check "zsh completes" says "syncd status" inside zsh -fc 'zmodload zsh/zpty; zpty z "TERM=dumb zsh -f -i"
  zpty -w z "PS1=; autoload -Uz compinit && compinit -u -D; print ready"; zpty -r z said "*ready*ready*"
  zpty -w -n z "syncd statu"$'"'\t'"'; zpty -r -m z said "*syncd status*"; print -r -- $said'

### Reloaded

pid=$(show MainPID)
line "mkdir /srv/more && printf '[[folders]]\npath = \"/srv/more\"\n' >>/etc/syncd/syncd.toml"
check "a reload keeps the process" eval 'inside systemctl reload syncd && eventually 10 is active show ActiveState && is "$pid" show MainPID'
line "printf %s more >/srv/more/more.txt"
check "and takes up another folder" eventually 30 has_one more

### Upgraded, and put back

line "printf '[state]\ndirectory = \"/var/lib/syncd-clips\"\n[[folders]]\npath = \"/srv/clips\"\n' >/etc/syncd/clips.toml
  install -m 600 /etc/syncd/aymara-api-key /etc/syncd/clips-api-key; mkdir /srv/clips; printf %s clip >/srv/clips/clip.txt
  systemctl start syncd@clips"
check "an instance of the template uploads, too" eventually 30 has_one clip
facts=$(remote)
check "an upgrade asks nothing" apt "./$version/*.deb"
check "what ran runs again, in the new version" eventually 20 runs "$version"
check "the instance, too" eventually 20 runs "$version" clips
check "all is well" eventually 20 syncd status
check "nothing was sent or deleted" is "$facts" remote
write two.txt "the second"
check "and a new file arrives" eventually 30 has_one "the second"
inside systemctl stop syncd
facts=$(remote)
check "it is put back to the former version" apt --allow-downgrades "./$BEFORE/*.deb"
check "what was stopped stays so" is $'enabled\ninactive' states
check "what ran runs again, in that version" eventually 20 runs "$BEFORE" clips
inside systemctl start syncd
check "it goes on in the former version" eventually 20 runs "$BEFORE"
check "all is well, there, too" eventually 20 syncd status
check "nothing was sent or deleted again" is "$facts" remote
inside systemctl disable -q --now syncd@clips
inside systemctl disable -q syncd
check "a service that was disabled stays disabled by an upgrade" eval 'apt "./$version/*.deb" && is $'"'disabled\nactive'"' states'
inside systemctl enable -q syncd

### Removed, installed again, purged

check "it is removed" line "apt-get remove -q -y syncd"
check "program and unit are gone, and nothing runs" line \
  '! ls -d /opt/syncd /usr/bin/syncd /usr/lib/systemd/system/syncd* 2>/dev/null && ! pgrep -f "[s]yncd run"'
check "key, configuration and state stay" line "cd /etc/syncd && ls aymara-api-key syncd.toml /var/lib/private/syncd/state.db"
write three.txt "the third"
posts=$(emulator posts) first=$(live "the first")
check "it is installed again" apt "./$version/*.deb"
check "it starts at once, for it is configured" is $'enabled\nactive' states
check "what came meanwhile arrives" eventually 30 has_one "the third"
check "and nothing else was sent" is "$((posts + 1)) $first" eval 'echo "$(emulator posts) $(live "the first")"'
check "and all is well" eventually 20 syncd status
facts=$(remote)
check "it is purged" line "apt-get purge -q -y syncd"
check "nothing of it is left" eval 'inventory | diff "$scratch/before" -'
check "the files and the copies at the service stay" eval 'is "$facts" remote && line "ls /srv/drop/three.txt /srv/clips/clip.txt"'

### Where 0.1.0 had run, installed by hand

line "mkdir -p /opt/syncd/bin && touch /opt/syncd/bin/syncd && chmod +x /opt/syncd/bin/syncd && cp /source/systemd/syncd.service /etc/systemd/system/
  systemctl daemon-reload && systemctl enable -q syncd && systemctl stop emulator
  rm -rf /var/lib/emulator && mkdir -p /var/lib/private && chmod 700 /var/lib/private && ln -s private/syncd /var/lib/syncd
  PYTHONPATH=/source /opt/emulator/bin/python -m upgrade.loading /srv /var/lib/private/syncd /var/lib/emulator $URL
  install -D -m 600 /dev/stdin /etc/syncd/aymara-api-key <<< $KEY
  printf '[state]\ndirectory = \"/var/lib/syncd\"\n[[folders]]\npath = \"/srv/one\"\n[[folders]]\npath = \"/srv/many\"\n' >/etc/syncd/syncd.toml"
serve
check "with its state, the emulator answers" eventually 30 emulator live
facts=$(remote)
check "it does not overwrite what was installed by hand, and says what to do" eval '! apt "./$version/*.deb" >"$scratch/log" && cat "$scratch/log" && grep -q "rm -r /opt/syncd" "$scratch/log"'
check "that helps" line "$(sed -n 's/^ *\(systemctl disable --now.*\)/\1/p' "$scratch/log" | head -n 1)"
echo "      + the documented command:"; block package-again | sed 's/^/      | /'
check "with the documented command it is installed, and starts" admin "cp -f /source/packages/$version/*.deb ~/ && rm -f ~/syncd_$BEFORE*; cd; $(block package-again)"
check "it is enabled, and active" is $'enabled\nactive' states
settled() { syncd ls --json | python3 -c '
import json, sys
found = {entry["path"]: entry["status"] for entry in map(json.loads, sys.stdin)}
print(*(found[name] for name in ("a.txt", "deep/b.txt", "doubt.txt", "clip.mp4")))'; }
check "it settles what 0.1.0 left open" eventually 40 is "synced synced synced synced" settled
check "it holds the deletions that 0.1.0 held" says many_missing syncd status --json
check "nothing was sent or deleted for it" is "$facts" remote
report
