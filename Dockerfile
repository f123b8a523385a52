# Both programs in a small image, which runs the producer. Builds with docker (BuildKit or not), podman and buildah:
#   docker build -t git-partition-sync-producer .
# Base images can be changed: --build-arg RUST_IMAGE=… --build-arg RUST_DIGEST=, and the same with RUN_. The run-time base needs
# only glibc: debian, ubi-minimal and distroless all work. If it has /etc/ssl/certs/ca-certificates.crt, like distroless, the programs
# use that file and not the bundle in /etc/pki: then mount a volume with your own authorities at /etc/ssl/certs, or name
# it in SSL_CERT_FILE.
#
# The consumer, for the far side, is in it too: docker run --entrypoint git-partition-sync-consumer …

# The digests say which builds of these tags: @sha256:…. scripts/pin-images fills them in and renews them. Without a digest the
# tag's newest build is taken.
ARG RUST_IMAGE=docker.io/library/rust:1.95-slim-bookworm
ARG RUST_DIGEST=
ARG RUN_IMAGE=docker.io/library/debian:bookworm-slim
ARG RUN_DIGEST=

# BuildKit's bill of materials covers this stage as well as the image: the stripped binaries name no crate. (Not the next
# stage, where the scanner would find the lock files of all crates' own tests, too.)
FROM scratch AS crates
ARG BUILDKIT_SBOM_SCAN_STAGE=true
COPY Cargo.lock /

FROM ${RUST_IMAGE}${RUST_DIGEST} AS build
WORKDIR /build
# What docker and buildah call the architecture; without them it is the machine's own. Each is built on its own kind.
ARG TARGETARCH
# zlib goes into the binaries, or the image would need the library. Paths of this stage stay out of it, so that the same
# source gives the same bytes wherever it is built.
ENV LIBZ_SYS_STATIC=1 \
    CARGO_TERM_COLOR=never \
    CARGO_INCREMENTAL=0 \
    RUSTFLAGS="--remap-path-prefix=/build=. --remap-path-prefix=/usr/local/cargo=/cargo"
RUN case "${TARGETARCH:-$(dpkg --print-architecture)}" in \
        "$(dpkg --print-architecture)") ;; \
        *) echo "this stage builds for its own architecture: use a machine, or emulation, of ${TARGETARCH}" >&2; exit 1 ;; \
    esac

# First the dependencies alone, with nothing of the programs but their manifests: this layer is built again only when they change.
COPY Cargo.toml ./
COPY --from=crates /Cargo.lock ./
COPY testbed/Cargo.toml testbed/
# Tests and benches are not here, so the manifest must not name them either.
RUN awk '/^\[/ { skip = /^\[\[(test|bench)\]\]/ } !skip' Cargo.toml > manifest && mv manifest Cargo.toml \
    && mkdir -p src/bin testbed/src \
    && echo 'fn main() {}' | tee src/main.rs > src/bin/git-partition-sync-consumer.rs \
    && touch src/lib.rs testbed/src/lib.rs \
    && cargo build --release --locked --bin git-partition-sync-producer --bin git-partition-sync-consumer \
    && rm -r src

COPY queries queries
COPY templates templates
COPY docs docs
COPY README.md SECURITY.md ./
COPY src src
# Cargo goes by time, and the files copied may be older than what was built of the empty ones.
RUN touch src/main.rs src/bin/git-partition-sync-consumer.rs src/lib.rs \
    && cargo build --release --locked --bin git-partition-sync-producer --bin git-partition-sync-consumer

# Everything that the image adds to its base, in one tree: the last stage needs no shell then, and neither does its base.
# - The authorities are where Red Hat's images have them, so that a volume mounted at /etc/pki replaces them.
# - /queries has the names that the Go program's settings give.
# - Any user may be set to run the image, so any user may write to /working; what the programs keep there is for their own
#   user only.
COPY LICENSE ./
ARG SOURCE_DATE_EPOCH=0
RUN install -D -m 0755 target/release/git-partition-sync-producer /image/usr/local/bin/git-partition-sync-producer \
    && install -D -m 0755 target/release/git-partition-sync-consumer /image/usr/local/bin/git-partition-sync-consumer \
    && install -D -m 0644 /etc/ssl/certs/ca-certificates.crt /image/etc/pki/tls/certs/ca-bundle.crt \
    && install -D -m 0644 LICENSE /image/licenses/LICENSE \
    && install -D -m 0644 queries/gitlab_sync.graphql /image/query.graphql \
    && install -D -m 0644 queries/gitlab_sync.graphql /image/queries/gitlabSync.graphql \
    && install -D -m 0644 queries/pr_check.graphql /image/queries/prCheck.graphql \
    && install -d -m 0777 /image/working \
    && find /image -exec touch --no-dereference --date="@${SOURCE_DATE_EPOCH}" {} +

FROM ${RUN_IMAGE}${RUN_DIGEST}
ARG RUN_IMAGE
ARG RUN_DIGEST
ARG VERSION=dev
ARG REVISION=unknown
# When the source was committed, in RFC 3339.
ARG CREATED=1970-01-01T00:00:00Z
# The repository that it was built from.
ARG SOURCE=https://github.com/OWNER/git-partition-sync-producer
LABEL org.opencontainers.image.title="git-partition-sync-producer" \
      org.opencontainers.image.description="Copies GitLab projects, encrypted, through an S3 bucket into a GitLab in an isolated partition" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.url="${SOURCE}" \
      org.opencontainers.image.documentation="${SOURCE}/blob/${REVISION}/README.md" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="${RUN_IMAGE}${RUN_DIGEST}"
COPY --from=build /image/ /

# A number, so that Kubernetes can tell that it is not root; OpenShift puts one of its own in its place.
USER 65532:65532
EXPOSE 9090
ENTRYPOINT ["/usr/local/bin/git-partition-sync-producer"]
