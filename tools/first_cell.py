# Nothing to read here: finds the course, or fetches it (Colab, Kaggle, a file sent by mail).
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
        whole = f"fetch all of it from {ADDRESS} ({TAG})" if ADDRESS else "ask for all of it"
        problem = f"this file is a part of a course. Remedy: {whole}, and open it there"
        if beside:
            problem = f"{sys.executable} is not the course's. Remedy: choose the kernel of .venv"
        stop = ModuleNotFoundError(f"course: {problem}; the README there says how to install")
        stop._render_traceback_ = lambda: [str(stop)]  # one line in place of thirty
        raise stop
    sys.path.insert(0, os.path.abspath("course"))
    import course_utils.alone

    course_utils.alone.add_missing()
import course_utils.copies

course_utils.copies.notice(TAG)
