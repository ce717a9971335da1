"""Serves a bundle to the browser of a phone and takes back how it ran there.

session.py   one call of `sdmobile serve`: bundle, recorded calls, job, server, end
job.py       what the page shall do           memory.py   what a browser can hold
routes.py    the list of what is served       static.py   the same as a folder for any host
server.py    sockets, TLS, patience           handler.py  one request
inbox.py     what the page sends              png.py      looks into its picture
tls.py       a certificate for one address    address.py  which address, and its code for a camera
"""
