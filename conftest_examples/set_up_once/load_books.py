"""Loads the rows of a CSV file into a database: ``load_books.py FROM TO``."""

import csv
import sqlite3
import sys

with open(sys.argv[1], newline="") as file:
    books = [(row["title"], int(row["year"])) for row in csv.DictReader(file)]

with sqlite3.connect(sys.argv[2]) as database:
    database.execute("CREATE TABLE book (title TEXT, year INTEGER)")
    database.executemany("INSERT INTO book VALUES (?, ?)", books)
