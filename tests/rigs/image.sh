# An image for the rigs: built from our Dockerfile on a stand-in base (Debian 13 and its Python) so
# that no registry is asked; an environment with the emulator. A rig sources it in place of lib.sh,
# passes it its own arguments, and calls `prepare_image`.
# shellcheck shell=bash
if [[ -z ${SYNCD_RIG_PRIVATE:-} ]]; then
  # Mounts of its own: crun wants plain cgroup v2, and the commands' /srv is not to be the machine's.
  exec env SYNCD_RIG_PRIVATE=yes unshare --mount --propagation slave bash -c '
    { umount -l -R /sys/fs/cgroup; umount -l -R /sys/fs/cgroup; } 2>/dev/null
    mount -t cgroup2 none /sys/fs/cgroup && mkdir -p /srv && mount -t tmpfs none /srv && exec bash "$@"
    ' bash "$0" "$@"
fi
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

SUITE=trixie
PACKAGES=ca-certificates,python3,python3-venv
BASE=localhost/syncd-rig-base:1
KEY=a-key-of-the-rig
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' "$root/syncd/__init__.py")

# Storage and settings of the rig's own: what else runs on this machine is not touched.
export CONTAINERS_CONF=$scratch/containers.conf CONTAINERS_STORAGE_CONF=$scratch/storage.conf
cat >"$CONTAINERS_STORAGE_CONF" <<END
[storage]
driver = "overlay"
graphroot = "$cache/images"
runroot = "$scratch/run"
END
# configure VARIABLE=VALUE...: what the rig alone needs in each container.
configure() {
  local env
  env=$(printf '"%s", ' "$@")
  cat >"$CONTAINERS_CONF" <<END
[containers]
cgroups = "disabled"
netns = "host"
default_ulimits = ["nofile=16384:16384", "nproc=16384:16384"]
env = [${env%, }]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "crun"
END
}
configure SYNCD_API__BASE_URL=http://127.0.0.1:9

forget_images() {
  umount -l "$cache/images/overlay" 2>/dev/null
  rm -rf "$scratch"
}
make_base() { mmdebstrap --variant=minbase --include="$PACKAGES" --format=tar "$SUITE" "$1"; }
make_emulator() { "${PYTHON:-python3}" -m venv "$1" && "$1/bin/python" -m pip install -q "$scratch/source[emulator]" 'pyyaml>=6,<7'; }

# The documents say docker; here it is podman, and buildah where something is built.
docker() {
  local command=$1
  shift
  if [[ $command != build ]]; then podman "$command" "$@"; return; fi
  local more=(--build-arg "BASE=$BASE" --build-arg "VERSION=$version" --volume /etc/ssl/certs/ca-certificates.crt:/etc/ssl/certs/ca-certificates.crt:ro)
  [[ -e /etc/pip.conf ]] && more+=(--volume /etc/pip.conf:/etc/pip.conf:ro)
  # Without --format docker the HEALTHCHECK would be dropped.
  buildah bud --isolation chroot --network host --format docker --layers --pull-never "${more[@]}" "$@"
}

# prepare_image: what the image is built of in $scratch/source, its base, and the emulator's Python.
prepare_image() {
  mkdir "$scratch/source"
  cp -r "$root"/{pyproject.toml,README.md,LICENSE,CHANGELOG.md,syncd,systemd,tests,.ci,Dockerfile,.dockerignore} "$scratch/source/"
  cached "base-$SUITE.tar" make_base
  cached "emulator-2-$wanted" make_emulator
  python=$cache/emulator-2-$wanted/bin/python
  podman image exists "$BASE" \
    || podman import -c 'ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin' \
      "$cache/base-$SUITE.tar" "$BASE" >"$scratch/import.log" 2>&1 \
    || { cat "$scratch/import.log"; give_up "the base cannot be imported"; }
}
