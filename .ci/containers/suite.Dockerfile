# The image under test with what its test suite needs; the suite itself is mounted.
ARG IMAGE
FROM $IMAGE
COPY servers /tmp/
RUN apt-get update && apt-get install --yes --no-install-recommends curl git procps && sh /tmp/servers
COPY requirements.txt /tmp/
RUN pip install --no-cache-dir --quiet --disable-pip-version-check -r /tmp/requirements.txt
ENTRYPOINT []
