# Any Debian-like base with Python 3.11 or newer as `python3` serves.
ARG BASE=docker.io/library/python:3.13-slim

FROM ${BASE} AS build
WORKDIR /src
# A release has requirements.txt, which names every package by its hash (.github/RELEASING.md); without
# it, the newest that fit are taken.
COPY pyproject.toml README.md LICENSE requirements.tx[t] ./
COPY syncd ./syncd
# A virtual environment of its own: the final stage gets it whole, and no tool that built it. Compiled
# here, since a read-only container cannot: it halves what each start and each health check costs.
RUN python3 -m venv /opt/syncd \
 && if [ -e requirements.txt ]; then \
      /opt/syncd/bin/pip install --no-cache-dir --require-hashes -r requirements.txt \
      && /opt/syncd/bin/pip install --no-cache-dir --no-deps --no-build-isolation . \
      && /opt/syncd/bin/pip uninstall --yes hatchling; \
    else /opt/syncd/bin/pip install --no-cache-dir .; fi \
 && /opt/syncd/bin/pip uninstall --yes pip

FROM ${BASE}
ARG VERSION=0.2.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="syncd" \
      org.opencontainers.image.description="Keeps a remote Files API equal to watched folders" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/syncd /opt/syncd
# An arbitrary `--user` works too: it needs to read /data and to write /state.
RUN groupadd --gid 10001 syncd \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /state --shell /usr/sbin/nologin syncd \
 && install -d -o syncd -g syncd -m 0700 /state \
 && install -d /data
ENV PATH=/opt/syncd/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONFAULTHANDLER=1 \
    SYNCD_WATCH=/data \
    SYNCD_STATE__DIRECTORY=/state
USER 10001:10001
VOLUME ["/state"]
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
  CMD ["syncd", "status", "--alive"]
ENTRYPOINT ["syncd"]
CMD ["run"]
