# Any Debian-like base with Python 3.11 or newer as `python3` serves.
ARG BASE=docker.io/library/python:3.13-slim

FROM ${BASE} AS build
WORKDIR /src
# Both name every package by its hash; `.ci/constrain` makes them.
COPY .ci/constraints.txt .ci/constraints-build.txt ./.ci/
RUN python3 -m venv /tmp/build \
 && /tmp/build/bin/pip install --no-cache-dir --require-hashes -r .ci/constraints-build.txt
# A virtual environment of its own: the final stage gets it whole, and no tool that built it. Compiled
# here, since a read-only container cannot: it halves what each start and each health check costs.
RUN python3 -m venv /opt/syncd \
 && /opt/syncd/bin/pip install --no-cache-dir --require-hashes -r .ci/constraints.txt
COPY pyproject.toml README.md LICENSE ./
COPY syncd ./syncd
COPY systemd ./systemd
# rich asks for pygments and the other two to colour source and Markdown, which syncd never shows: a
# quarter of all that would be added.
RUN /tmp/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /tmp/dist . \
 && /opt/syncd/bin/pip install --no-cache-dir --no-deps /tmp/dist/syncd-*.whl \
 && /opt/syncd/bin/pip uninstall --yes pygments markdown-it-py mdurl pip

FROM ${BASE}
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="syncd" \
      org.opencontainers.image.description="Keeps a remote Files API equal to watched folders" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/syncd /opt/syncd
# The folder stands in the file, which every variable and a file of the user's own replace.
# An arbitrary `--user` works too: it needs to read /data and to write /state.
RUN groupadd --gid 10001 syncd \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /state --shell /usr/sbin/nologin syncd \
 && install -d -o syncd -g syncd -m 0700 /state \
 && install -d /data /etc/syncd \
 && printf '[[folders]]\npath = "/data"\n' >/etc/syncd/syncd.toml
ENV PATH=/opt/syncd/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONFAULTHANDLER=1 \
    SYNCD_STATE__DIRECTORY=/state
USER 10001:10001
VOLUME ["/state"]
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
  CMD ["syncd", "status", "--alive"]
ENTRYPOINT ["syncd"]
CMD ["run"]
