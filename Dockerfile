# Ends in an image that holds the binary and nothing to build with. How it is run: deploy/README.md.
FROM rust:1-slim-bookworm AS build
# gcc for ring and SQLite comes with the image. `--build-arg PROFILE=dev` builds faster what answers slower, to try things.
ARG PROFILE=release
WORKDIR /build
COPY . .
RUN cargo build --locked --profile "$PROFILE" && install -D target/*/jarchy /out/jarchy

FROM debian:bookworm-slim
# A number that volumes can be given to, as no machine outside knows the name.
RUN groupadd --system --gid 10080 jarchy \
 && useradd --system --uid 10080 --gid jarchy --home-dir /var/lib/jarchy --no-create-home --shell /usr/sbin/nologin jarchy \
 && install -d -o jarchy -g jarchy -m 0750 /var/lib/jarchy
COPY --from=build /out/jarchy /usr/local/bin/
COPY LICENSE /usr/share/doc/jarchy/
USER jarchy:jarchy
WORKDIR /var/lib/jarchy
VOLUME /var/lib/jarchy
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["jarchy", "healthcheck", "--config", "/var/lib/jarchy/jarchy.toml"]
# The orderly end hangs on it; it may take longer than the 10 s that `docker stop` grants unless told otherwise.
STOPSIGNAL SIGTERM
ENTRYPOINT ["jarchy"]
CMD ["serve", "--config", "/var/lib/jarchy/jarchy.toml"]
