# Builds with the same steps as the README and ends in an image that holds the binary and nothing to build with.
#
#   docker build -t jarchy .
#   mkdir data && cp ca.pem ca.key data/ && sudo chown -R 10080:10080 data
#   docker run --rm -v "$PWD/data:/var/lib/jarchy" jarchy init --dir . --issuer NAME \
#     --ca-cert ca.pem --ca-key ca.key --listen 0.0.0.0:8080
#   docker run -p 8080:8080 -v "$PWD/data:/var/lib/jarchy" jarchy

FROM rust:1-slim-bookworm AS build
# gcc for ring and SQLite comes with the image.
WORKDIR /build
COPY . .
RUN cargo build --release --locked

FROM debian:bookworm-slim
RUN groupadd --system --gid 10080 jarchy \
 && useradd --system --uid 10080 --gid jarchy --home-dir /var/lib/jarchy --no-create-home --shell /usr/sbin/nologin jarchy \
 && install -d -o jarchy -g jarchy -m 0750 /var/lib/jarchy
COPY --from=build /build/target/release/jarchy /usr/local/bin/jarchy
COPY --from=build /build/LICENSE /usr/share/doc/jarchy/LICENSE
USER jarchy:jarchy
WORKDIR /var/lib/jarchy
VOLUME /var/lib/jarchy
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["/usr/local/bin/jarchy", "healthcheck", "--config", "/var/lib/jarchy/jarchy.toml"]
# `docker stop` sends this by default; here it is said, as the orderly shutdown hangs on it.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/jarchy"]
CMD ["serve", "--config", "/var/lib/jarchy/jarchy.toml"]
