# Opened alone (Colab, Kaggle, a file sent by mail), a notebook fetches the rest of its course here.
import importlib.util
import os
import sys

ADDRESS, TAG = "{{address}}", "{{tag}}"
beside = os.path.exists("../course_utils")
if beside:  # it belongs to this notebook; an installed one may be another
    sys.path.insert(0, os.path.abspath(".."))
if not all(map(importlib.util.find_spec, ("course_utils", "pyro"))):
    if ADDRESS and not beside and not os.path.exists("course"):
        os.environ["GIT_TERMINAL_PROMPT"] = "0"  # no question that nobody sees
        os.system(f'git clone --quiet --depth=1 --branch={TAG} "{ADDRESS}" course')
    if beside or not os.path.exists("course/course_utils"):
        where = f"at {ADDRESS} ({TAG})" if ADDRESS else "where this file came from"
        remedy = "install it and open the notebook in its folder, or try again with a network"
        stop = ModuleNotFoundError(f"course: the rest of the course is {where}. Remedy: {remedy}")
        stop._render_traceback_ = lambda: [str(stop)]  # one line in place of thirty
        raise stop
    sys.path.insert(0, os.path.abspath("course"))
    import course_utils.alone

    course_utils.alone.add_missing()
import course_utils.copies

course_utils.copies.notice(TAG)
