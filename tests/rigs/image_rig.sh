#!/usr/bin/env bash
# The image: built from our Dockerfile and run by the documented commands, on a stand-in base (Debian
# 13 and its Python) so that no registry is asked, an emulator beside it. Root; about five minutes.
# See image.sh.
source "$(dirname "$0")/image.sh"

MOST_MB=35
emulator_pid=
forget() {
  # One by one: where one is not there, older versions leave the others.
  local name
  for name in syncd refused project_syncd_1 mine_syncd_1 mine_state_1; do podman rm --force --time 0 "$name"; done >/dev/null 2>&1
  for name in syncd-state other project_state mine_state; do podman volume rm --force "$name"; done >/dev/null 2>&1
}
leave() {
  forget
  if [[ -n $emulator_pid ]]; then kill "$emulator_pid"; wait "$emulator_pid"; fi 2>/dev/null
  forget_images
}
trap leave EXIT

# A run that was killed has left its own behind.
forget

commands() { block container | sed '/^docker exec/d'; }
following() { block container | grep '^docker exec'; }

image() { podman image inspect --format "$1" "${2:-syncd}"; }
megabytes() { echo $((($(image '{{.Size}}') - $(image '{{.Size}}' "$BASE")) / 1000000)); }
within() { podman run --rm --network host --entrypoint python3 syncd -c "$1"; }
hardened=(--network host --read-only --tmpfs /tmp --cap-drop all --security-opt no-new-privileges)
# Podman complains that no systemd runs its health checks here; the rig runs them itself.
quietly() { "$@" >"$scratch/quiet.log" 2>&1 || { cat "$scratch/quiet.log"; return 1; }; }
# refused CODE TEXT OPTION...: a container that ends with CODE and says TEXT.
refused() {
  local expected=$1 text=$2
  shift 2
  quietly podman run -d --name refused "${hardened[@]}" -v /srv/drop:/data:ro "$@" syncd || return
  is "$expected" podman wait refused && says "$text" podman logs refused
  local code=$?
  quietly podman rm --force refused
  return $code
}

emulator() { "${PYTHON:-python3}" "$root/tests/rigs/emulator.py" "$url" "$@"; }
digest() { printf '%s' "$1" | sha256sum | cut -d ' ' -f 1; }
live() { emulator live "$(digest "$1")" | cut -d ' ' -f 2; }
has_one() { [[ $(emulator live "$(digest "$1")" | wc -l) == 1 ]]; }
has_none() { [[ -z $(emulator live "$(digest "$1")") ]]; }
listed() {
  podman exec syncd syncd ls --json --status synced | python3 -c '
import json, sys
print(*[e["file_uuid"] for e in map(json.loads, sys.stdin) if e["path"] == sys.argv[1]])' "$1"
}
agrees() { has_one "$2" && is "$(live "$2")" listed "$1"; }

### Build

prepare_image
PYTHONPATH=$scratch/source "$python" -m syncd emulator --listen 127.0.0.1:0 \
  --data "$scratch/emulator" --api-key "$KEY" >"$scratch/emulator.log" 2>&1 &
emulator_pid=$!
eventually 30 grep -q '^listening on' "$scratch/emulator.log" || give_up "the emulator does not start"
url=$(sed -n 's/^listening on //p' "$scratch/emulator.log")
configure "SYNCD_API__BASE_URL=$url" SYNCD_DELETIONS__GRACE_SECONDS=2

mkdir /srv/drop
printf %s "the first" >/srv/drop/one.txt
export AYMARA_AI_API_KEY=$KEY
cd "$scratch/source" || exit
echo "      + the documented commands:"; block container | sed 's/^/      | /'
began=$SECONDS
check "the documented commands build it and start it" eval "$(commands)"
echo "      built and started in $((SECONDS - began)) s"
check "it adds $(megabytes) MB to its base, less than $MOST_MB" eval '(($(megabytes) < MOST_MB))'
check "it brings no pip and no build tool" within '
import importlib.util, os, sys
assert sys.prefix == "/opt/syncd", sys.prefix
inside = [n for n in ("pip", "setuptools", "hatchling", "wheel") if (s := importlib.util.find_spec(n)) and s.origin.startswith(sys.prefix)]
assert not inside, inside
assert not [n for n in os.listdir("/opt/syncd/bin") if n.startswith("pip")]'
check "it brings no tests and no emulator's packages" within '
import importlib.util
assert not [n for n in ("av", "pytest", "tests") if importlib.util.find_spec(n)]'
check "every module of it can be imported without what was left out" within '
import importlib, pkgutil, syncd
for module in pkgutil.walk_packages(syncd.__path__, "syncd."):
    if not module.name.startswith("syncd.emulator") and not module.name.endswith("__main__"):
        importlib.import_module(module.name)'
check "it is not root, and has a volume, a health check and a stop signal" \
  is '10001:10001 map[/state:{}] [CMD syncd status --alive] SIGTERM' \
  image '{{.User}} {{.Config.Volumes}} {{.HealthCheck.Test}} {{.Config.StopSignal}}'

check "its labels say what it is, and of which version" is "syncd $version" \
  image '{{index .Labels "org.opencontainers.image.title"}} {{index .Labels "org.opencontainers.image.version"}}'

folders() { podman run --rm "$@" syncd config show --json | python3 -c '
import json, sys
print(*[e["value"] for e in json.load(sys.stdin) if e["setting"].endswith("].path")])'; }
printf '[[folders]]\npath = "/media"\n' >"$scratch/mine.toml"
check "it watches /data unless it is told otherwise" is /data folders
check "SYNCD_FOLDERS names others" is "/a /b" folders -e 'SYNCD_FOLDERS=[{"path": "/a"}, {"path": "/b"}]'
check "SYNCD_WATCH names another" is /other folders -e SYNCD_WATCH=/other
check "and so does a file of the user's" is /media folders -v "$scratch/mine.toml:/etc/syncd/syncd.toml:ro"

### Run

check "it becomes healthy" eventually 30 podman healthcheck run syncd
check "a file arrives" eventually 30 has_one "the first"
check "'syncd ls' in it has its uuid" eventually 20 agrees one.txt "the first"
check "the documented status command says that all is well" eval "$(following)"
check "the daemon is process 1, without capabilities" is $'NoNewPrivs:\t1\nCapEff:\t0000000000000000' \
  podman exec syncd sh -c 'grep NoNewPrivs /proc/1/status; grep CapEff /proc/1/status'
check "its log is JSON, a line each" eval 'podman logs syncd 2>&1 | python3 -c "
import json, sys
assert [json.loads(line)[\"level\"] for line in sys.stdin]"'
check "a state on a volume of a name is not warned of" eval '! podman logs syncd 2>&1 | grep -E "own layer|without a name"'
check "doctor finds nothing wrong" podman exec syncd syncd doctor
check "SIGHUP reloads, and the process stays" eval 'podman kill --signal HUP syncd && eventually 10 says "nothing changed" podman logs syncd && podman healthcheck run syncd'
check "an upload's line has its facts" eval 'podman logs syncd 2>&1 | python3 -c "
import json, sys
facts = [f for f in map(json.loads, sys.stdin) if f.get(\"event\") == \"uploaded\"]
assert facts[0][\"path\"] == \"one.txt\" and facts[0][\"bytes\"] == 9, facts
assert facts[0][\"file_uuid\"] and facts[0][\"request_id\"] and facts[0][\"seconds\"] >= 0, facts"'
check "its state is 0700" is 700 podman exec syncd stat -c %a /state
printf %s "the second" >/srv/new && mv /srv/new /srv/drop/one.txt
check "a change becomes a new copy" eventually 30 agrees one.txt "the second"
check "the old copy goes" eventually 20 has_none "the first"
emulator faults '[{"match": "POST /v2/files/-/uploads", "action": {"delay": 6}}]'
printf %s "in flight" >/srv/new && mv /srv/new /srv/drop/two.txt
check "an upload is under way" eventually 20 says two.txt podman exec syncd syncd status
began=$SECONDS
check "stop drains" podman stop syncd
check "in time, by SIGTERM: exit 0" eval 'is 0 podman inspect --format "{{.State.ExitCode}}" syncd && ((SECONDS - began < 10))'
check "what was in flight arrived" has_one "in flight"
emulator faults '[]'
sent=$(emulator posts)
check "it starts again" podman start syncd
check "with its state: all is synced" eventually 30 agrees two.txt "in flight"
check "and nothing was sent twice" is "$sent" emulator posts
rm /srv/drop/one.txt
check "a deleted file's copy goes" eventually 30 has_none "the second"

### What it refuses, and whom it serves

# warned TEXT OPTION...: a container that warns of its state, and works.
warned() {
  local text=$1
  shift
  quietly podman run -d --name refused "${hardened[@]}" -v /srv/drop:/data:ro -e AYMARA_AI_API_KEY "$@" syncd || return
  eventually 20 says "$text" podman logs refused
  local code=$?
  quietly podman rm --force --time 0 --volumes refused
  return $code
}
check "a state without a volume of a name is warned of" warned "the next container gets another"
check "no key: exit 78, said" refused 78 "no API key" -v other:/state
check "a key that is empty: exit 78, said" refused 78 "AYMARA_AI_API_KEY" -e AYMARA_AI_API_KEY= -v other:/state
check "a state of another user: exit 78, and what to do" \
  refused 78 "run it as that user" --user 12345:12345 -e AYMARA_AI_API_KEY -v syncd-state:/state
mkdir /srv/state && chown 12345:12345 /srv/state
printf %s "$KEY" >/srv/key && chown 12345 /srv/key && chmod 400 /srv/key
quietly podman stop syncd
printf %s "by another" >/srv/drop/three.txt
quietly podman run -d --name refused "${hardened[@]}" --user 12345:12345 -v /srv/drop:/data:ro -v /srv/state:/state \
  -v /srv/key:/run/secrets/key:ro -e AYMARA_AI_API_KEY_FILE=/run/secrets/key syncd
check "any user with a state of its own is served, its key from a file" eventually 30 has_one "by another"
check "and is healthy" eventually 10 podman healthcheck run refused
check "and stops with 0" eval 'podman stop refused && is 0 podman inspect --format "{{.State.ExitCode}}" refused'
quietly podman rm --force refused

### With Compose

make_compose() { "${PYTHON:-python3}" -m venv "$1" && "$1/bin/python" -m pip install -q 'podman-compose>=1.5'; }
cached compose-1 make_compose
mkdir "$scratch/project"
cd "$scratch/project" || exit
block compose >compose.yaml
# What the rig alone needs: no network of its own, no registry.
printf 'services: {syncd: {network_mode: host, pull_policy: never, image: localhost/syncd}}\n' >compose.override.yaml
printf %s "$KEY" >aymara-api-key && chown 10001 aymara-api-key && chmod 400 aymara-api-key
printf %s "by compose" >/srv/drop/four.txt
compose() { "$cache/compose-1/bin/python" -m podman_compose -f compose.yaml -f compose.override.yaml "$@"; }
check "the documented Compose file starts it" compose up -d
check "and the file in its folder arrives" eventually 30 has_one "by compose"
check "it is healthy, with its state on the volume" eval 'podman healthcheck run project_syncd_1 && is 700 podman exec project_syncd_1 stat -c %a /state'
check "'compose stop' drains: exit 0" eval 'compose stop && is 0 podman inspect --format "{{.State.ExitCode}}" project_syncd_1'
quietly compose down --volumes

### With Compose, as people write it: key, configuration and folder belong to user 1000 alone

mkdir /srv/mine "$scratch/mine" && cd "$scratch/mine" || exit
printf %s "$KEY" >key && head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n' >syncd-token
printf '[[folders]]\npath = "/srv/mine"\n[server]\nlisten = "127.0.0.1:18766"\n' >syncd.toml
printf %s "by one user" >/srv/mine/five.txt
chown -R 1000:1000 . /srv/mine && chmod 600 key syncd-token /srv/mine/five.txt && chmod 640 syncd.toml && chmod 700 /srv/mine
AYMARA_AI_API_KEY_FILE=key PYTHONPATH=$scratch/source "$python" -m syncd -c syncd.toml init --compose >compose.yaml
printf 'services: {syncd: {network_mode: host, pull_policy: never, image: localhost/syncd}, state: {pull_policy: never, image: localhost/syncd}}\n' \
  >compose.override.yaml
check "a key that the image's user may not read: exit 78, whose it is, and what to do" \
  refused 78 "it belongs to user 1000, mode 600: run syncd as that user, or let user 10001 read it" \
  -v "$PWD/key:/run/secrets/key:ro" -e AYMARA_AI_API_KEY_FILE=/run/secrets/key -v other:/state
check "the same of a configuration" \
  refused 78 "it belongs to user 1000, mode 640" -e AYMARA_AI_API_KEY -v "$PWD/syncd.toml:/etc/syncd/syncd.toml:ro" -v other:/state
check "the printed Compose file starts it as that user" eval 'compose up -d && is 1000 podman exec mine_syncd_1 id -u'
check "the file in the folder arrives" eventually 30 has_one "by one user"
check "it is healthy, with its state on the volume, open to that user alone" eval \
  'podman healthcheck run mine_syncd_1 && is "1000 700" podman exec mine_syncd_1 stat -c "%u %a" /state'
# scraped: by the name of the service, from another container.
scraped() {
  podman run --rm --network host --add-host syncd:127.0.0.1 --entrypoint python3 syncd -c '
import sys, urllib.request
asked = urllib.request.Request("http://syncd:18766/metrics", headers={"Authorization": "Bearer " + sys.argv[1]})
print(urllib.request.urlopen(asked, timeout=5).read().decode())' "$(cat syncd-token)"
}
check "another container scrapes it by the name of the service" says "syncd_well 1.0" scraped
quietly compose down --volumes

### Rootless podman

# An account without a name in the machine's files, which this rig's mounts cover.
rootless() {
  (cd /srv/ada && setpriv --reuid 4242 --regid 4242 --clear-groups env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/srv/ada \
    XDG_RUNTIME_DIR=/srv/ada/run CONTAINERS_CONF="$CONTAINERS_CONF" CONTAINERS_STORAGE_CONF=/srv/ada/storage.conf podman "$@")
}
for name in passwd group subuid subgid; do
  cp "/etc/$name" "$scratch/$name" && mount --bind "$scratch/$name" "/etc/$name"
done
echo 'ada:x:4242:4242::/srv/ada:/bin/sh' >>"$scratch/passwd"; echo 'ada:x:4242:' >>"$scratch/group"
echo 'ada:300000:65536' | tee -a "$scratch/subuid" >>"$scratch/subgid"
mkdir -p /srv/ada/{run,drop} "$scratch/ada" && chmod 755 "$scratch" "$scratch/containers.conf"
# Ulimits can only be lowered there.
sed -i '/default_ulimits/d' "$CONTAINERS_CONF"
printf '[storage]\ndriver = "overlay"\ngraphroot = "%s/ada/images"\nrunroot = "%s/ada/run"\n' "$scratch" "$scratch" >/srv/ada/storage.conf
printf %s "$KEY" >/srv/ada/key; printf %s "without root" >/srv/ada/drop/six.txt
chown -R 4242:4242 /srv/ada "$scratch/ada" && chmod 600 /srv/ada/key /srv/ada/drop/six.txt && chmod 700 /srv/ada /srv/ada/drop
quietly podman save -o "$scratch/image.tar" syncd && chmod 644 "$scratch/image.tar"
check "an ordinary user takes the image" rootless load -q -i "$scratch/image.tar"
echo "      + the documented option:"; block rootless | sed 's/^/      | /'
check "the documented option lets it read what only that user may" eval 'quietly rootless run -d --name rootless $(block rootless) "${hardened[@]}" \
  -v /srv/ada/key:/run/secrets/key:ro -e AYMARA_AI_API_KEY_FILE=/run/secrets/key -v /srv/ada/drop:/data:ro -v state:/state syncd
  eventually 40 has_one "without root"'
check "and it stops with 0" eval 'quietly rootless stop rootless && is 0 rootless inspect --format "{{.State.ExitCode}}" rootless'
quietly rootless rm --force rootless
quietly rootless system migrate

### Built of nothing else

# tampered: a build of packages that are not those that were named.
tampered() {
  sed -i "s/sha256:[0-9a-f]*/sha256:$(digest other)/" .ci/constraints.txt
  docker build -t tampered . 2>&1
}
cd "$scratch/source" || exit
check "other packages than those that were named are refused" says "DO NOT MATCH THE HASHES" tampered
report
