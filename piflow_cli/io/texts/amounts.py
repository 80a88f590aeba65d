"""Times and rates as people write them."""


def duration(seconds: float) -> str:
    """A time left or taken: 42s, 3m10s, 2h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def pace(images_per_s: float) -> str:
    """A rate with as many digits as matter; below one picture a second the seconds of one."""
    if images_per_s >= 10:
        return f"{images_per_s:.0f} images/s"
    return f"{images_per_s:.1f} images/s" if images_per_s >= 1 else f"{1 / images_per_s:.3g} s/image"
