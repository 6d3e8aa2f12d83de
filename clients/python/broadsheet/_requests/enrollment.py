"""Enrolling a data plane: the response that is the only one with the token."""

from __future__ import annotations

from broadsheet.errors import DataLoss
from broadsheet.types import EnrollDataPlaneResponse
from broadsheet.v1.enrollment_pb2 import EnrollDataPlaneRequest


def with_token(request: EnrollDataPlaneRequest, response: EnrollDataPlaneResponse) -> EnrollDataPlaneResponse:
    """Return `response` if it holds the token.

    Raises:
        DataLoss: A first attempt made the token, and the response with it was lost. The token is
            stored nowhere.
    """
    if response.enrollment_token or request.validate_only:
        return response
    raise DataLoss(
        f"the enrolment token of {response.name} was made, but the response with it was lost, and it is stored "
        "nowhere; make another, which takes its place",
        reason="ENROLLMENT_TOKEN_LOST",
        request="EnrollDataPlane",
    )
