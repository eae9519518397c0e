"""Which of its offers is to get a job: by an exhaustive search that was written apart from the rule."""

from fractions import Fraction

from reelkeeper.rules.jobs.routing import Offered, RoutingPolicy


def dollars_a_clip(offer: Offered) -> Fraction:
    """What all its jobs cost, over those that were delivered: twenty are presumed, and two at the book's price."""
    delivered, charged, stated, ratios = (Fraction(figure) for figure in offer.record[:4])
    return offer.cost_microusd * (2 + ratios) * (20 + delivered + charged) / ((2 + stated) * (20 + delivered))


def begins_after(offer: Offered) -> Fraction:
    """When a place is free: as jobs end evenly, one in each share of a job's time."""
    turn = Fraction(offer.held_seconds) + offer.ahead * Fraction(offer.seconds_between)
    if offer.places is None:
        return turn
    in_line, share = 1 + offer.ahead - offer.places, Fraction(offer.job_seconds) / offer.places
    return max(turn, in_line * share)


def exhaustive(found: list[Offered], policy: RoutingPolicy) -> str | None:
    """Find the offer that no other one beats, by comparing each with each."""

    def rank(place: int) -> tuple[object, ...]:
        offer = found[place]
        is_late = policy.wait_limit_seconds is not None and begins_after(offer) > policy.wait_limit_seconds
        dollars = dollars_a_clip(offer)
        if is_late:
            return True, begins_after(offer), dollars, place
        return False, Fraction(0), dollars if policy.rule == "cheapest" else Fraction(0), place

    able = [place for place, offer in enumerate(found) if offer.is_healthy and offer.has_budget]
    unbeaten = [one for one in able if not any(rank(other) < rank(one) for other in able)]
    return found[unbeaten[0]].provider if unbeaten else None
