-- By which rules our own files are named: 0 are those before platforms of gems kept their C library. The names depend on
-- what is inside the files, so the process that opens the mirror next does the renaming (index.publish), and says so.
INSERT INTO counters (name, value) VALUES ('naming', 0);
