"""What a power cut, a kill or a failing disk may leave of a cache, and what must hold then.

`cache` does things to a cache and says what it was promised; `recorder` writes down the changes on
disk; `model` enumerates what a power cut may leave of them; `scenarios` are what is tried, and
`recovery` opens what is left and says which promises are broken.
"""
