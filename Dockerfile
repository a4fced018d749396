# The runtime as an image: docker build -t snapruntime . && docker run --privileged -v $PWD:/work snapruntime doctor
# Python packages are those of .ci/requirements.lock, by their hashes; `make lock` renews it.

FROM debian:trixie-slim AS system
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates criu python3 python3-pycriu \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*.log /var/log/apt

FROM system AS build
RUN apt-get update && apt-get install --yes --no-install-recommends python3-venv
COPY .ci/requirements.lock /src/.ci/
# setuptools, which the lock has too, makes the wheel; it does not go into the image.
RUN python3 -m venv /opt/snapruntime \
    && /opt/snapruntime/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r /src/.ci/requirements.lock
COPY . /src
RUN cd /src \
    && /opt/snapruntime/bin/pip install --no-cache-dir --no-index --no-deps --no-build-isolation . \
    && /opt/snapruntime/bin/pip uninstall --yes --quiet setuptools

FROM system
COPY --from=build /opt/snapruntime /opt/snapruntime
ENV PATH=/opt/snapruntime/bin:$PATH SNAPRUNTIME_HOME=/var/lib/snapruntime
# The CRIU of the distribution; built on Linux 6.16 or newer, where that cannot save network sockets, a newer one of
# Debian's beside it. Whether it works is found out where a container is started.
RUN snapruntime setup
WORKDIR /work
ENTRYPOINT ["snapruntime"]
CMD ["--help"]
