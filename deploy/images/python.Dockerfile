# syntax=docker/dockerfile:1
# Agents in Python: an interpreter without a shell, the wheel of aios, and a folder of the user.
#
#     docker build -f deploy/images/python.Dockerfile --build-arg APP=agents:runtime -t aios-agents .
#
# The folder `app` has the modules and a `requirements.txt` that names aios. APP is a module and the
# name of its runtime; see `python -m aios serve --help`.
FROM debian:trixie-slim AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-pip \
    && rm -rf /var/lib/apt/lists/*
COPY app/requirements.txt /requirements.txt
RUN pip install --no-cache-dir --no-compile --target /packages -r /requirements.txt

FROM gcr.io/distroless/python3-debian13:nonroot
ARG APP=agents:runtime
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="aios-agents" \
      org.opencontainers.image.description="Agents on aios, in Python" \
      org.opencontainers.image.source="https://github.com/aios-rs/aios" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /packages /packages
COPY app /app
ENV PYTHONPATH=/packages:/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    AIOS_APP=${APP}
USER 65532:65532
WORKDIR /app
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=6s --start-period=30s --retries=3 \
    CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/health/ready', timeout=5)"]
ENTRYPOINT ["python3", "-c", "import os, sys; from aios.__main__ import main; sys.exit(main(['serve', os.environ['AIOS_APP'], '--listen', '0.0.0.0:8080']))"]
