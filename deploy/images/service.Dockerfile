# syntax=docker/dockerfile:1
# A service in Rust: a static program and the certificates of authorities, and nothing else.
#
#     docker build -f deploy/images/service.Dockerfile -t aios-service .
#     docker build -f deploy/images/service.Dockerfile --sbom=true --provenance=true -t aios-service --push .
#
# BIN is a program of PACKAGE; it takes --health, for the health check below.
#
# The image sets `http.listen` alone, because its port is fixed. A variable overrides the files of settings,
# so nothing else that they may set is here.
ARG RUST_VERSION=1.95

FROM rust:${RUST_VERSION}-alpine AS build
ARG PACKAGE=aios-examples
ARG BIN=service
# hadolint ignore=DL3018
RUN apk add --no-cache ca-certificates musl-dev
WORKDIR /source
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/source/target \
    cargo build --release --locked --package "$PACKAGE" --bin "$BIN" \
    && install -D -s "target/release/$BIN" /root-of-image/service

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="aios-service" \
      org.opencontainers.image.description="A service on aios: engine, API and agents" \
      org.opencontainers.image.source="https://github.com/aios-rs/aios" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /root-of-image/service /service
USER 65532:65532
WORKDIR /
ENV AIOS_HTTP_LISTEN=0.0.0.0:8080
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=6s --start-period=30s --retries=3 CMD ["/service", "--health"]
ENTRYPOINT ["/service"]
