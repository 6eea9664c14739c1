"""Deployments of one configuration: units of systemd, Compose and Kubernetes manifests."""
