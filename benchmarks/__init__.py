import course_utils  # noqa: F401 - before torch: it decides how threads wait
