# The program in a small image. Builds with docker (BuildKit or not), podman and buildah:
#   docker build -t git-partition-sync-producer .
# Where images and crates come from can be changed: --build-arg RUST_IMAGE=…, --build-arg RUN_IMAGE=…

ARG RUST_IMAGE=docker.io/library/rust:1.95-slim-bookworm
ARG RUN_IMAGE=docker.io/library/debian:bookworm-slim

FROM ${RUST_IMAGE} AS build
WORKDIR /build
# zlib goes into the binary, or the image would need the library.
ENV LIBZ_SYS_STATIC=1 CARGO_TERM_COLOR=never

# First the dependencies alone, with nothing of the program but its manifests: this layer is built again only when they change.
COPY Cargo.toml Cargo.lock ./
COPY testbed/Cargo.toml testbed/
# Tests and benches are not here, so the manifest must not name them either.
RUN awk '/^\[/ { skip = /^\[\[(test|bench)\]\]/ } !skip' Cargo.toml > manifest && mv manifest Cargo.toml \
    && mkdir -p src testbed/src \
    && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs testbed/src/lib.rs \
    && cargo build --release --locked --bin git-partition-sync-producer \
    && rm -r src

COPY queries queries
COPY templates templates
COPY src src
# Cargo goes by time, and the files copied may be older than what was built of the empty ones.
RUN touch src/main.rs src/lib.rs \
    && cargo build --release --locked --bin git-partition-sync-producer

FROM ${RUN_IMAGE}
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="git-partition-sync-producer" \
      org.opencontainers.image.description="Copies GitLab projects, encrypted, into an S3 bucket for a GitLab in an isolated partition" \
      org.opencontainers.image.source="https://github.com/app-sre/git-partition-sync-producer" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY LICENSE /licenses/LICENSE
COPY queries/gitlab_sync.graphql /query.graphql
COPY --from=build /build/target/release/git-partition-sync-producer /usr/local/bin/git-partition-sync-producer
# Any user may be set to run the image, so any user may write here; what the program keeps in it is for its own user only.
RUN mkdir /working && chmod 0777 /working && chmod 0644 /query.graphql

USER 65532:65532
ENTRYPOINT ["/usr/local/bin/git-partition-sync-producer"]
