"""The calls about tags. Of what the API lets be tagged, there are functions here."""

from __future__ import annotations

import re
from urllib.parse import parse_qs

from snapruntime.edges.serve.exchange import Call, Reply, reply_json
from snapruntime.edges.serve.fields import Fields, missing
from snapruntime.values.reference import parse_reference
from snapruntime.values.service_errors import InvalidParameterValueException, ValidationException
from snapruntime.workflows.functions import Functions
from snapruntime.workflows.tags import tag, untag

_ARN = re.compile(r"arn:aws[a-zA-Z-]*:lambda:[a-z0-9-]+:\d{12}:function:.+")


class TagCalls:
    """Answers them. May be used from several threads."""

    def __init__(self, functions: Functions) -> None:
        self._functions = functions

    def list(self, call: Call) -> Reply:
        """ListTags."""
        return reply_json({"Tags": dict(self._functions.settings(_tagged(call)).tags)})

    def tag(self, call: Call) -> Reply:
        """TagResource."""
        tags = Fields.parse(call.body).strings("Tags")
        if tags is None:
            raise missing("Tags")
        tag(self._functions, _tagged(call), tags)
        return Reply(204, content_type="")

    def untag(self, call: Call) -> Reply:
        """UntagResource."""
        keys = parse_qs(call.raw_query, keep_blank_values=True).get("tagKeys")
        if keys is None:
            raise missing("tagKeys")
        untag(self._functions, _tagged(call), keys)
        return Reply(204, content_type="")


def _tagged(call: Call) -> str:
    """The function whose ARN a call names: nothing shorter will do."""
    text = call.path["Resource"]
    if not _ARN.fullmatch(text):
        raise ValidationException("resource", text, f"Member must satisfy regular expression pattern: {_ARN.pattern}")
    reference = parse_reference(text, action=call.action)
    if reference.qualifier is not None:
        raise InvalidParameterValueException(
            "Tags on function aliases and versions are not supported. Please specify a function ARN."
        )
    return reference.name
