#!/usr/bin/env bash
# Pods' lives under podman, with the manifests that `syncd init` prints and the image that our
# Dockerfile makes: containers killed, pods replaced, Jobs retried, keys rotated, and more; pods.py
# plays them. Root; about two minutes. See image.sh.
source "$(dirname "$0")/image.sh"
trap forget_images EXIT
configure TZ=UTC
prepare_image
began=$SECONDS
(cd "$scratch/source" && docker build -t "syncd:$version" .) >"$scratch/build.log" 2>&1 \
  || { tail -n 20 "$scratch/build.log"; give_up "the image cannot be built"; }
echo "      the image is built in $((SECONDS - began)) s"
# A network of its own; what `ip netns` makes there is gone with its mounts.
mkdir -p /run/netns "$scratch/lives"
PYTHONPATH=$scratch/source timeout 900 unshare --net --mount --propagation slave sh -c \
  'mount -t tmpfs none /run/netns && exec "$@"' sh "$python" "$root/tests/rigs/pods.py" "$scratch/lives" "localhost/syncd:$version"
