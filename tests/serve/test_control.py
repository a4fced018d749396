"""The control plane by boto3: every call, and the errors that AWS gives. The service model judges each answer."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from typing import Any

import pytest
from botocore.exceptions import ClientError

from serve.conftest import ARN, ROLE, RUNTIME, Serve, Server, create, wait_active, zipped


def error_of(call: Any, **parameters: Any) -> tuple[str, int, str]:
    """Name, status and message of the error that a call ends in."""
    with pytest.raises(ClientError) as caught:
        call(**parameters)
    answer = caught.value.response
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Message"]


def test_the_life_of_a_function(client: Any) -> None:
    created = client.create_function(
        FunctionName="life",
        Runtime=RUNTIME,
        Handler="app.handler",
        Role=ROLE,
        Code={"ZipFile": zipped()},
        Description="of a function",
        Timeout=5,
        MemorySize=256,
        Environment={"Variables": {"STAGE": "test"}},
        SnapStart={"ApplyOn": "PublishedVersions"},
        Tags={"team": "a"},
    )
    assert created["FunctionArn"] == f"{ARN}:life"
    assert (created["Version"], created["CodeSize"]) == ("$LATEST", len(zipped()))
    assert created["SnapStart"] == {"ApplyOn": "PublishedVersions", "OptimizationStatus": "Off"}
    assert created["Environment"] == {"Variables": {"STAGE": "test"}}
    client.get_waiter("function_active_v2").wait(FunctionName="life")
    client.get_waiter("function_exists").wait(FunctionName="life")

    got = client.get_function(FunctionName="life")
    assert got["Tags"] == {"team": "a"}
    unchanging = {name: value for name, value in created.items() if name != "ResponseMetadata"}
    assert unchanging.items() <= got["Configuration"].items()

    updated = client.update_function_configuration(
        FunctionName="life", Timeout=7, Description="", Environment={"Variables": {}}, RevisionId=created["RevisionId"]
    )
    assert (updated["Timeout"], updated["Description"], updated["MemorySize"]) == (7, "", 256)
    assert "Environment" not in updated
    assert updated["RevisionId"] != created["RevisionId"]
    client.get_waiter("function_updated_v2").wait(FunctionName="life")

    other = zipped("def handler(event, context): return 2")
    dry = client.update_function_code(FunctionName="life", ZipFile=other, DryRun=True)
    assert dry["CodeSha256"] != created["CodeSha256"]
    assert client.get_function_configuration(FunctionName="life")["CodeSha256"] == created["CodeSha256"]
    changed = client.update_function_code(FunctionName="life", ZipFile=other, RevisionId=updated["RevisionId"])
    assert changed["CodeSha256"] == dry["CodeSha256"]

    version = client.publish_version(FunctionName="life", Description="the first", CodeSha256=changed["CodeSha256"])
    assert (version["Version"], version["FunctionArn"]) == ("1", f"{ARN}:life:1")
    assert (version["State"], version["StateReasonCode"]) == ("Pending", "Creating")
    assert version["SnapStart"]["OptimizationStatus"] == "On"
    wait_active(client, "life", "1")
    assert client.publish_version(FunctionName="life")["Version"] == "1"  # Nothing has changed.

    client.delete_function(FunctionName="life", Qualifier="1")
    assert client.delete_function(FunctionName="life")["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert error_of(client.get_function, FunctionName="life") == (
        "ResourceNotFoundException",
        404,
        f"Function not found: {ARN}:life",
    )


def test_published_with_its_creation(client: Any) -> None:
    created = client.create_function(
        FunctionName="published",
        Runtime=RUNTIME,
        Handler="app.handler",
        Role=ROLE,
        Code={"ZipFile": zipped()},
        Publish=True,
    )
    assert (created["Version"], created["State"]) == ("1", "Active")  # Without SnapStart there is nothing to wait for.
    updated = client.update_function_code(FunctionName="published", ZipFile=zipped("handler = print"), Publish=True)
    assert (updated["Version"], updated["FunctionArn"]) == ("2", f"{ARN}:published:2")


def test_a_version_that_fails(client: Any) -> None:
    name = create(client, "failing", "raise ValueError('at init')", publish=False)
    client.publish_version(FunctionName=name)
    with pytest.raises(Exception, match="Waiter PublishedVersionActive failed"):
        wait_active(client, name, "1")
    version = client.get_function_configuration(FunctionName=name, Qualifier="1")
    assert (version["State"], version["StateReasonCode"]) == ("Failed", "FunctionError")
    assert "at init" in version["StateReason"]
    code, status, _ = error_of(client.invoke, FunctionName=name, Qualifier="1")
    assert (code, status) == ("ResourceConflictException", 409)


def test_aliases(client: Any) -> None:
    name = create(client, "aliased")
    client.update_function_configuration(FunctionName=name, Description="another")
    client.publish_version(FunctionName=name)
    made = client.create_alias(FunctionName=name, Name="live", FunctionVersion="1", Description="the live one")
    assert made["AliasArn"] == f"{ARN}:{name}:live"
    client.create_alias(
        FunctionName=name,
        Name="canary",
        FunctionVersion="2",
        RoutingConfig={"AdditionalVersionWeights": {"1": 0.25}},
    )
    canary = client.get_alias(FunctionName=name, Name="canary")
    assert canary["RoutingConfig"] == {"AdditionalVersionWeights": {"1": 0.25}}
    assert client.get_function(FunctionName=f"{name}:live")["Configuration"]["FunctionArn"] == f"{ARN}:{name}:live"
    assert client.get_function(FunctionName=name, Qualifier="live")["Configuration"]["Version"] == "1"

    changed = client.update_alias(
        FunctionName=name,
        Name="canary",
        RoutingConfig={"AdditionalVersionWeights": {}},
        RevisionId=canary["RevisionId"],
    )
    assert "RoutingConfig" not in changed
    assert error_of(client.update_alias, FunctionName=name, Name="canary", RevisionId=canary["RevisionId"])[:2] == (
        "PreconditionFailedException",
        412,
    )
    assert [one["Name"] for one in client.list_aliases(FunctionName=name)["Aliases"]] == ["canary", "live"]
    assert [one["Name"] for one in client.list_aliases(FunctionName=name, FunctionVersion="1")["Aliases"]] == ["live"]

    code, status, said = error_of(client.delete_function, FunctionName=name, Qualifier="1")
    assert (code, status) == ("ResourceConflictException", 409)
    assert "live" in said
    client.delete_alias(FunctionName=name, Name="live")
    client.delete_function(FunctionName=name, Qualifier="1")
    assert error_of(client.get_alias, FunctionName=name, Name="live")[:2] == ("ResourceNotFoundException", 404)


@pytest.mark.parametrize(("given", "bound"), [("-1", "greater"), ("0", "greater"), ("x", "greater"), ("10001", "less")])
def test_pages_of_no_size(server: Server, given: str, bound: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{server.url}/2015-03-31/functions/?MaxItems={given}")
    assert caught.value.code == 400
    assert f"Member must have value {bound} than" in caught.value.read().decode()


def test_lists_have_pages(client: Any) -> None:
    for number in range(3):
        create(client, f"page-{number}", f"handler = {number}", publish=False)
    create(client, "page-1-more", publish=False)
    pages = list(client.get_paginator("list_functions").paginate(PaginationConfig={"PageSize": 2}))
    assert len(pages) > 1
    names = [one["FunctionName"] for page in pages for one in page["Functions"]]
    assert names == sorted(names)
    assert {"page-0", "page-1", "page-1-more", "page-2"} <= set(names)
    first = client.list_functions(MaxItems=1)
    assert "State" not in first["Functions"][0]

    for number in range(11):
        client.update_function_configuration(
            FunctionName="page-0", Description=str(number), SnapStart={"ApplyOn": "None"}
        )
        client.publish_version(FunctionName="page-0")
    pages = client.get_paginator("list_versions_by_function").paginate(
        FunctionName="page-0", PaginationConfig={"PageSize": 5}
    )
    assert [one["Version"] for page in pages for one in page["Versions"]] == ["$LATEST", *map(str, range(1, 12))]
    every = client.get_paginator("list_functions").paginate(FunctionVersion="ALL")
    assert f"{ARN}:page-0:11" in [one["FunctionArn"] for page in every for one in page["Functions"]]


def test_concurrency(client: Any) -> None:
    name = create(client, "reserved", publish=False)
    assert "ReservedConcurrentExecutions" not in client.get_function_concurrency(FunctionName=name)
    client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=3)
    assert client.get_function_concurrency(FunctionName=name)["ReservedConcurrentExecutions"] == 3
    assert client.get_function(FunctionName=name)["Concurrency"] == {"ReservedConcurrentExecutions": 3}
    account = client.get_account_settings()["AccountLimit"]
    assert account["UnreservedConcurrentExecutions"] == account["ConcurrentExecutions"] - 3
    assert error_of(
        client.put_function_concurrency,
        FunctionName=name,
        ReservedConcurrentExecutions=account["ConcurrentExecutions"] * 9 // 10 + 1,
    )[::2] == (
        "InvalidParameterValueException",
        "Specified ReservedConcurrentExecutions for function decreases account's UnreservedConcurrentExecution "
        f"below its minimum value of [{account['ConcurrentExecutions'] // 10}].",
    ), "functions without a reservation would never run"  # fmt: skip
    client.delete_function_concurrency(FunctionName=name)
    assert "Concurrency" not in client.get_function(FunctionName=name)
    assert error_of(
        client.put_function_concurrency, FunctionName=f"{name}:live", ReservedConcurrentExecutions=1
    )[0] == "InvalidParameterValueException"  # fmt: skip


def test_functions_of_others_are_not_ours_of_the_same_name(client: Any, echo: str) -> None:
    theirs = f"arn:aws:lambda:us-east-1:999999999999:function:{echo}"
    for call, action in ((client.invoke, "InvokeFunction"), (client.get_function, "GetFunction")):
        assert error_of(call, FunctionName=theirs) == (
            "AccessDeniedException",
            403,
            f"User: arn:aws:iam::123456789012:root is not authorized to perform: lambda:{action} on resource: {theirs} "
            f"because no resource-based policy allows the lambda:{action} action",
        )
    elsewhere = ARN.replace("us-east-1", "eu-west-1")
    said = "Functions from 'eu-west-1' are not reachable in this region ('us-east-1')"
    for call in (client.invoke, client.get_function, client.list_aliases, client.delete_function):
        assert error_of(call, FunctionName=f"{elsewhere}:{echo}") == ("ResourceNotFoundException", 404, said)
    assert client.get_function(FunctionName=f"{ARN}:{echo}:live")["Configuration"]["FunctionName"] == echo


def test_code_whose_names_begin_with_the_folder_itself(client: Any) -> None:
    code = {"ZipFile": zipped("def handler(event, context): return 1", "./app.py", **{"./": ""})}
    name = create(client, "dotted", publish=False, Code=code)
    assert client.invoke(FunctionName=name)["Payload"].read() == b"1"


def test_urls(client: Any) -> None:
    name = create(client, "with-urls")
    client.create_alias(FunctionName=name, Name="live", FunctionVersion="1")
    assert error_of(client.get_function_url_config, FunctionName=name) == (
        "ResourceNotFoundException",
        404,
        "The resource you requested does not exist.",
    )
    made = client.create_function_url_config(FunctionName=name, AuthType="NONE")
    assert re.fullmatch(r"http://[a-z0-9]{32}\.lambda-url\.localhost:\d+/", made["FunctionUrl"])
    assert made["InvokeMode"] == "BUFFERED"
    cors = {"AllowOrigins": ["https://a.example"], "MaxAge": 5, "AllowCredentials": True}
    client.create_function_url_config(FunctionName=name, Qualifier="live", AuthType="AWS_IAM", Cors=cors)
    got = client.get_function_url_config(FunctionName=name, Qualifier="live")
    assert (got["Cors"], got["FunctionArn"]) == (cors, f"{ARN}:{name}:live")
    changed = client.update_function_url_config(FunctionName=name, AuthType="AWS_IAM", InvokeMode="RESPONSE_STREAM")
    assert (changed["AuthType"], changed["InvokeMode"]) == ("AWS_IAM", "RESPONSE_STREAM")
    assert changed["FunctionUrl"] == made["FunctionUrl"]
    listed = client.list_function_url_configs(FunctionName=name)["FunctionUrlConfigs"]
    assert [one["FunctionArn"] for one in listed] == [f"{ARN}:{name}", f"{ARN}:{name}:live"]
    client.delete_function_url_config(FunctionName=name)
    assert len(client.list_function_url_configs(FunctionName=name)["FunctionUrlConfigs"]) == 1


@pytest.mark.parametrize(
    "cors",
    [
        {"AllowOrigins": ["*"], "ExposeHeaders": ["x\r\nX-Evil: 1"]},
        {"AllowOrigins": ["https://a.example\n"]},
        {"AllowHeaders": ["\0"]},
        {"AllowHeaders": ["\ud800"]},
        {"AllowHeaders": ["x" * 1025]},
        {"AllowMethods": ["OPTIONS"]},
        {"AllowOrigins": ["*"] * 101},
    ],
)
def test_cors_that_no_header_can_hold(client: Any, cors: dict[str, Any]) -> None:
    """Each request with an Origin would be answered by 500, without a word in the log."""
    code, status, message = error_of(
        client.create_function_url_config, FunctionName="any", AuthType="NONE", Cors=cors
    )  # fmt: skip
    assert (code, status) == ("ValidationException", 400)
    assert f"at 'cors.{next(reversed(cors))[0].lower()}{next(reversed(cors))[1:]}'" in message


CREATE: dict[str, Any] = {
    "FunctionName": "wrong",
    "Runtime": RUNTIME,
    "Handler": "app.handler",
    "Role": ROLE,
    "Code": {"ZipFile": zipped()},
}


@pytest.mark.parametrize(
    ("changes", "code", "status", "said"),
    [
        ({"Runtime": "python2.7"}, "InvalidParameterValueException", 400, f"at 'runtime'.*{RUNTIME}"),
        ({"Timeout": 901}, "ValidationException", 400, "'901' at 'timeout'.*less than or equal to 900"),
        ({"MemorySize": 20000}, "ValidationException", 400, "at 'memorySize'"),
        ({"Handler": "a b.c"}, "ValidationException", 400, "at 'handler'"),
        (
            {"SnapStart": {"ApplyOn": "Always"}},
            "ValidationException",
            400,
            r"snapStart.applyOn.*PublishedVersions, None",
        ),
        ({"Code": {"ZipFile": b"no zip"}}, "InvalidParameterValueException", 400, "Could not unzip uploaded file"),
        ({"Code": {}}, "InvalidParameterValueException", 400, "provide a source"),
        (
            {"Code": {"S3Bucket": "bucket", "S3Key": "key"}},
            "InvalidParameterValueException",
            400,
            r"NoSuchBucket.*exist\. T",
        ),
        (
            {"Code": {"S3Bucket": "local-folder", "S3Key": "/etc"}},
            "InvalidParameterValueException",
            400,
            r"/etc is not to be used\. .*--code-folder",
        ),
        ({"Code": {"ImageUri": "x"}, "PackageType": "Image"}, "InvalidParameterValueException", 400, "not supported"),
        ({"Layers": ["arn:aws:lambda:us-east-1:1:layer:x:1"]}, "InvalidParameterValueException", 400, "Layers is not"),
        ({"Architectures": ["arm64", "x86_64"]}, "InvalidParameterValueException", 400, "This host is"),
        ({"EphemeralStorage": {"Size": 1024}}, "InvalidParameterValueException", 400, "512 MB"),
        ({"TracingConfig": {"Mode": "Active"}}, "InvalidParameterValueException", 400, "Tracing"),
        ({"Environment": {"Variables": {"_HANDLER": "x"}}}, "ValidationException", 400, "environment"),
        (
            {"Environment": {"Variables": {"AWS_LAMBDA_FUNCTION_NAME": "x"}}},
            "InvalidParameterValueException",
            400,
            "res",
        ),
        ({"Environment": {"Variables": {"LARGE": "x" * 5000}}}, "InvalidParameterValueException", 400, "4KB limit"),
        ({"FunctionName": "a:b:c:d"}, "ValidationException", 400, "at 'functionName'"),
        ({"FunctionName": "x" * 65}, "InvalidParameterValueException", 400, "less than or equal to 64"),
        ({"Role": "none"}, "ValidationException", 400, "at 'role'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_functions_that_cannot_be(client: Any, changes: dict[str, Any], code: str, status: int, said: str) -> None:
    found, at, message = error_of(client.create_function, **(CREATE | changes))
    assert (found, at) == (code, status), message
    assert re.search(said, message)
    assert error_of(client.get_function, FunctionName="wrong")[0] == "ResourceNotFoundException"


def test_images_have_no_handler(client: Any) -> None:
    said = error_of(
        client.create_function, FunctionName="f", Role=CREATE["Role"], Code={"ImageUri": "x"}, PackageType="Image"
    )
    assert (said[0], "images are not supported" in said[2]) == ("InvalidParameterValueException", True), said


def test_what_asks_for_nothing_is_not_refused(client: Any) -> None:
    """Terraform, CDK and the console say so for "no VPC, no layers, no key"."""
    nothing: dict[str, Any] = {
        "VpcConfig": {"SubnetIds": [], "SecurityGroupIds": [], "Ipv6AllowedForDualStack": False},
        "Layers": [],
        "KMSKeyArn": "",
        "TracingConfig": {"Mode": "PassThrough"},
    }
    name = create(client, "in-no-vpc", publish=False)
    client.update_function_configuration(FunctionName=name, **nothing)
    one = {"SubnetIds": ["subnet-1"], "SecurityGroupIds": []}
    said = error_of(client.update_function_configuration, FunctionName=name, VpcConfig=one)
    assert said == ("InvalidParameterValueException", 400, "VpcConfig is not supported by snapruntime.")


def test_conflicts(client: Any) -> None:
    name = create(client, "conflicts")
    assert error_of(client.create_function, **(CREATE | {"FunctionName": name})) == (
        "ResourceConflictException",
        409,
        f"Function already exist: {name}",
    )
    assert error_of(client.update_function_configuration, FunctionName=name, RevisionId="old")[:2] == (
        "PreconditionFailedException",
        412,
    )
    assert (
        error_of(client.publish_version, FunctionName=name, CodeSha256="other")[0] == "InvalidParameterValueException"
    )
    client.create_alias(FunctionName=name, Name="live", FunctionVersion="1")
    assert error_of(client.create_alias, FunctionName=name, Name="live", FunctionVersion="1")[:2] == (
        "ResourceConflictException",
        409,
    )
    assert error_of(client.create_alias, FunctionName=name, Name="7", FunctionVersion="1")[0] == "ValidationException"
    assert error_of(client.create_alias, FunctionName=name, Name="x", FunctionVersion="9")[:2] == (
        "ResourceNotFoundException",
        404,
    )
    client.create_function_url_config(FunctionName=name, AuthType="NONE")
    assert (
        "FunctionUrlConfig exists" in error_of(client.create_function_url_config, FunctionName=name, AuthType="NONE")[2]
    )
    assert error_of(client.create_function_url_config, FunctionName=name, Qualifier="1", AuthType="NONE")[0] == (
        "ValidationException"
    )
    assert error_of(client.create_function_url_config, FunctionName=name, Qualifier="no", AuthType="NONE")[:2] == (
        "ResourceNotFoundException",
        404,
    )


@pytest.mark.parametrize(
    "call",
    [
        "get_function",
        "get_function_configuration",
        "update_function_configuration",
        "delete_function",
        "publish_version",
        "list_versions_by_function",
        "list_aliases",
        "get_function_concurrency",
        "delete_function_concurrency",
        "list_function_url_configs",
        "get_function_url_config",
        "invoke",
    ],
)
def test_of_a_function_that_is_not(client: Any, call: str) -> None:
    code, status, _ = error_of(getattr(client, call), FunctionName="nothing")
    assert (code, status) == ("ResourceNotFoundException", 404)


@pytest.mark.parametrize("name", ["echo", f"{ARN}:echo", "123456789012:function:echo", f"{ARN}:echo:1", "echo:live"])
def test_names(client: Any, echo: str, name: str) -> None:
    got = client.get_function_configuration(FunctionName=name)
    qualifier = name.partition("echo")[2]
    assert got["FunctionArn"] == f"{ARN}:{echo}{qualifier}"


def test_qualifiers_that_differ(client: Any, echo: str) -> None:
    assert error_of(client.get_function, FunctionName=f"{echo}:1", Qualifier="live") == (
        "InvalidParameterValueException",
        400,
        "The derived qualifier from the function name does not match the specified qualifier.",
    )


def test_code_by_folder(serve: Serve, code_root: Any) -> None:
    folder = code_root / "by-folder"
    folder.mkdir(mode=0o755)
    (folder / "app.py").write_text("def handler(event, context): return 'from a folder'\n")
    server: Server = serve("--code-folder", str(code_root))
    client = server.client()
    create(client, "by-folder", Code={"S3Bucket": "local-folder", "S3Key": str(folder)}, publish=False)
    assert client.invoke(FunctionName="by-folder")["Payload"].read() == b'"from a folder"'
    (folder / "app.py").write_text("def handler(event, context): return 'changed'\n")
    client.update_function_code(FunctionName="by-folder", S3Bucket="local-folder", S3Key=str(folder))
    assert client.invoke(FunctionName="by-folder")["Payload"].read() == b'"changed"'
    for outside in ("/", f"{folder}/../../..", "/etc"):
        assert error_of(client.update_function_code, FunctionName="by-folder", S3Bucket="local-folder", S3Key=outside)[
            0
        ] == ("InvalidParameterValueException")


@pytest.mark.parametrize(
    "body",
    [
        *(b"{", b"[]", b'{"Timeout": "5"}', b'{"Timeout": true}', b'{"Environment": 1}', b"\xff"),
        *(rb'{"Handler": "\ud800.f"}', rb'{"Handler": "app\u0000.f"}'),  # No process could be started with them.
    ],
)
def test_bodies_that_are_no_request(server: Server, echo: str, body: bytes) -> None:
    request = urllib.request.Request(f"{server.url}/2015-03-31/functions/{echo}/configuration", data=body, method="PUT")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=10)
    assert caught.value.code == 400
    assert caught.value.headers["x-amzn-errortype"] == "InvalidRequestContentException"
