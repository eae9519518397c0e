-- Run once, on an empty volume: one server, two databases and two users, neither of which can access the other's database.
\set ON_ERROR_STOP on
SET log_min_error_statement = panic;  -- a statement that fails is not logged, since it holds a password
\set prefect_password `cat /run/secrets/prefect_database_password`
\set reelkeeper_password `cat /run/secrets/reelkeeper_database_password`
CREATE ROLE prefect LOGIN PASSWORD :'prefect_password';
CREATE ROLE reelkeeper LOGIN PASSWORD :'reelkeeper_password';
CREATE DATABASE prefect OWNER prefect;
CREATE DATABASE reelkeeper OWNER reelkeeper;
REVOKE ALL ON DATABASE prefect, reelkeeper, postgres, template1 FROM PUBLIC;
