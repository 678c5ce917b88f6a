"""What clients hear from our programs is what they hear from the stock ones, but for a list."""

from __future__ import annotations

import conversation


def test_what_differs_from_stock_is_stated_and_what_is_stated_differs():
    stock, ours = conversation.both()
    found = conversation.compare(stock, ours)
    reasons = conversation.stated()
    assert len(stock) > 60  # it was a conversation
    new = [
        difference
        for difference in found
        if not any(conversation.is_stated(difference, pattern) for pattern in reasons)
    ]
    assert not new, "\n".join(map(str, new))
    untrue = [
        pattern
        for pattern in reasons
        if not any(conversation.is_stated(difference, pattern) for difference in found)
    ]
    assert not untrue, f"{conversation.DOCUMENT.name} states what does not differ (any more)"
