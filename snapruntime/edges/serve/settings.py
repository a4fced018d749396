"""The calls about what belongs to a function as a whole: its concurrency, its URLs; and those about the account."""

from __future__ import annotations

from typing import Any

from snapruntime.edges.serve.exchange import Call, Reply, reply_json
from snapruntime.edges.serve.fields import Fields, camel, missing
from snapruntime.edges.serve.naming import function_of, page, url_of
from snapruntime.values.answer import Limits
from snapruntime.values.function import UNZIPPED_LIMIT, ZIP_LIMIT, function_arn
from snapruntime.values.function_url import AuthType, Cors, FunctionUrl, InvokeMode
from snapruntime.values.service_errors import InvalidParameterValueException, ValidationException
from snapruntime.workflows.functions import Functions
from snapruntime.workflows.reservations import reserve
from snapruntime.workflows.urls import FunctionUrlService

#: What the API says of the code that an account may store, bytes (75 GB); here the disk decides.
_CODE_STORAGE = 80530636800
#: Of the lists of a function URL's CORS, in the service model: how many texts, and how long these may be.
_CORS_LIMITS = {
    "AllowHeaders": (100, 0, 1024),
    "AllowMethods": (6, 0, 6),
    "AllowOrigins": (100, 1, 253),
    "ExposeHeaders": (100, 0, 1024),
}


class SettingsCalls:
    """Answers them. May be used from several threads.

    Args:
        functions: the functions' service.
        limits: what the host of functions may use.
        address: what function URLs end in: "lambda-url.localhost:3001".
    """

    def __init__(self, functions: Functions, limits: Limits, address: str) -> None:
        self._functions = functions
        self._urls = FunctionUrlService(functions)
        self._limits = limits
        self._address = address

    def put_function_concurrency(self, call: Call) -> Reply:
        name = function_of(call)
        wanted = Fields.parse(call.body).integer("ReservedConcurrentExecutions")
        if wanted is None:
            raise missing("ReservedConcurrentExecutions")
        reserve(self._functions, name, wanted, self._limits.concurrency)
        return reply_json({"ReservedConcurrentExecutions": wanted})

    def get_function_concurrency(self, call: Call) -> Reply:
        reserved = self._functions.settings(function_of(call)).reserved_concurrency
        return reply_json({} if reserved is None else {"ReservedConcurrentExecutions": reserved})

    def delete_function_concurrency(self, call: Call) -> Reply:
        reserve(self._functions, function_of(call), None, self._limits.concurrency)
        return Reply(204, content_type="")

    def get_account_settings(self, _: Call) -> Reply:
        latest = self._functions.all()
        reserved = self._functions.reserved().values()
        return reply_json(
            {
                "AccountLimit": {
                    "TotalCodeSize": _CODE_STORAGE,
                    "CodeSizeUnzipped": UNZIPPED_LIMIT,
                    "CodeSizeZipped": ZIP_LIMIT,
                    "ConcurrentExecutions": self._limits.concurrency,
                    "UnreservedConcurrentExecutions": max(0, self._limits.concurrency - sum(reserved)),
                },
                "AccountUsage": {"TotalCodeSize": sum(one.code.size for one in latest), "FunctionCount": len(latest)},
            }
        )

    def create_url(self, call: Call) -> Reply:
        """CreateFunctionUrlConfig."""
        name, alias = url_of(call)
        request = Fields.parse(call.body)
        auth = request.choice("AuthType", AuthType)
        if auth is None:
            raise missing("AuthType")
        url = self._urls.create(
            name,
            alias,
            auth=auth,
            invoke_mode=request.choice("InvokeMode", InvokeMode) or InvokeMode.BUFFERED,
            cors=_cors(request),
        )
        shape = self._shape(url)
        del shape["LastModifiedTime"]
        return reply_json(shape, 201)

    def get_url(self, call: Call) -> Reply:
        """GetFunctionUrlConfig."""
        return reply_json(self._shape(self._urls.get(*url_of(call))))

    def update_url(self, call: Call) -> Reply:
        """UpdateFunctionUrlConfig."""
        request = Fields.parse(call.body)
        url = self._urls.update(
            *url_of(call),
            auth=request.choice("AuthType", AuthType),
            invoke_mode=request.choice("InvokeMode", InvokeMode),
            cors=_cors(request),
        )
        return reply_json(self._shape(url))

    def delete_url(self, call: Call) -> Reply:
        """DeleteFunctionUrlConfig."""
        self._urls.delete(*url_of(call))
        return Reply(204, content_type="")

    def list_urls(self, call: Call) -> Reply:
        """ListFunctionUrlConfigs."""
        found = [self._shape(url) for url in self._urls.all(function_of(call))]
        return page(call, found, "FunctionUrlConfigs", lambda shape: str(shape["FunctionArn"]))

    def _shape(self, url: FunctionUrl) -> dict[str, Any]:
        shape: dict[str, Any] = {
            "FunctionUrl": f"http://{url.id}.{self._address}/",
            "FunctionArn": function_arn(url.function, url.alias),
            "AuthType": url.auth,
            "InvokeMode": url.invoke_mode,
            "CreationTime": url.created,
            "LastModifiedTime": url.modified,
        }
        if url.cors is not None:
            members = {name: getattr(url.cors, name) for name in Cors.__slots__}
            shape["Cors"] = {_pascal(name): value for name, value in members.items() if value is not None}
        return shape


def _cors(request: Fields) -> Cors | None:
    given = request.fields("Cors")
    if given is None:
        return None
    age = given.integer("MaxAge")
    if age is not None and not 0 <= age <= 86400:
        raise InvalidParameterValueException("MaxAge has to be from 0 to 86400 seconds.")
    return Cors(
        allow_credentials=given.flag("AllowCredentials"),
        allow_headers=_lines(given, "AllowHeaders"),
        allow_methods=_lines(given, "AllowMethods"),
        allow_origins=_lines(given, "AllowOrigins"),
        expose_headers=_lines(given, "ExposeHeaders"),
        max_age=age,
    )


def _lines(given: Fields, name: str) -> tuple[str, ...] | None:
    """Texts that become the value of a header: within the service model's limits, and of one line each."""
    texts = given.texts(name)
    most, shortest, longest = _CORS_LIMITS[name]
    where = f"cors.{camel(name)}"
    if texts is not None and len(texts) > most:
        raise ValidationException(where, repr(list(texts)), f"Member must have length less than or equal to {most}")
    for text in texts or ():
        if not shortest <= len(text) <= longest:
            raise ValidationException(where, text, f"Member must have length from {shortest} to {longest}")
        if not text.isprintable():  # A line end would be no header's; half a surrogate pair cannot be sent.
            raise ValidationException(where, text, "Member must satisfy regular expression pattern: .*")
    return texts


def _pascal(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))
