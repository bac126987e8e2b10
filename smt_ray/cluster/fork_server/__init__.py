"""A process that has imported the large libraries, from which Ray's workers here are forked.

Importing torch, transformers, DeepSpeed and Ray takes a worker several seconds of CPU time, more
than a short training. A fork has them at once and shares their memory. Everything else about a
worker stays as it is: Ray starts and ends it, and it keeps nothing of the work of other workers.

- :mod:`~smt_ray.cluster.fork_server.session`: starts and ends the server with the session.
- :mod:`~smt_ray.cluster.fork_server.launch`: the program that Ray starts in place of Python. It
  passes its arguments on to the server, or becomes Python.
- :mod:`~smt_ray.cluster.fork_server.serve`: the server.
"""
