/*-------------------------------------------------------------------------
 *
 * definer.c
 *		Runs a private function as the extension's owner and tells it who
 *		called.
 *
 * May touch: nothing but the call.
 *
 * Within a SECURITY DEFINER function current_user is the definer, and
 * session_user is not the caller either: a pooler's session has SET ROLE.
 * So the public function is SECURITY INVOKER in C, where GetUserId() is the
 * caller, and the private one is SECURITY DEFINER and gets that oid as its
 * first argument.  The switch of user, its end on error, and the function's
 * own SET clauses are the function manager's, as for any such function.
 *
 * The private function trusts its first argument; that nobody else can call
 * it is a matter of REVOKE.  The function manager asks for no EXECUTE right.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "definer.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

static FmgrInfo *private_function_of(FunctionCallInfo fcinfo,
									 const char *name);
static Oid	private_function_oid(Oid public_function, const char *name);

Datum
definer_call(FunctionCallInfo fcinfo, const char *private_function)
{
	return definer_call_with(fcinfo, private_function, fcinfo->args);
}

Datum
definer_call_with(FunctionCallInfo fcinfo, const char *private_function,
				  const NullableDatum *args)
{
	LOCAL_FCINFO(call, FUNC_MAX_ARGS);
	ReturnSetInfo *set = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum		result;

	InitFunctionCallInfoData(*call,
							 private_function_of(fcinfo, private_function),
							 fcinfo->nargs + 1, fcinfo->fncollation, NULL,
							 fcinfo->resultinfo);
	call->args[0].value = ObjectIdGetDatum(GetUserId());
	call->args[0].isnull = false;
	memcpy(&call->args[1], args, fcinfo->nargs * sizeof(NullableDatum));

	/*
	 * A set has to come as a whole: the call ends here, and so does what it
	 * would need to be asked for a next row.  SQL and PL/pgSQL can do that.
	 */
	if (set != NULL && IsA(set, ReturnSetInfo))
		set->allowedModes |= SFRM_Materialize_Preferred;

	result = FunctionCallInvoke(call);
	fcinfo->isnull = call->isnull;

	if (set != NULL && IsA(set, ReturnSetInfo) &&
		set->returnMode == SFRM_ValuePerCall &&
		set->isDone != ExprSingleResult)
		elog(ERROR, "function \"%s\" returns its rows one by one",
			 private_function);
	return result;
}

/*
 * What to call, kept with the public function's call site: it has to live as
 * long as that, for a set that a SQL function returns lives in its memory.
 */
static FmgrInfo *
private_function_of(FunctionCallInfo fcinfo, const char *name)
{
	FmgrInfo   *site = fcinfo->flinfo;

	if (site->fn_extra == NULL)
	{
		FmgrInfo   *function = MemoryContextAlloc(site->fn_mcxt,
												  sizeof(FmgrInfo));

		fmgr_info_cxt(private_function_oid(site->fn_oid, name), function,
					  site->fn_mcxt);
		site->fn_extra = function;
	}
	return (FmgrInfo *) site->fn_extra;
}

/*
 * The function of that name in the public function's schema that takes an
 * oid and then exactly the public one's arguments; no cast, no other schema.
 */
static Oid
private_function_oid(Oid public_function, const char *name)
{
	Oid		   *public_types;
	Oid			types[FUNC_MAX_ARGS];
	int			nargs;
	HeapTuple	tuple;
	Form_pg_proc proc;
	Oid			schema = get_func_namespace(public_function);
	Oid			oid;

	get_func_signature(public_function, &public_types, &nargs);
	if (nargs >= FUNC_MAX_ARGS)
		elog(ERROR, "too many arguments for a call of \"%s\"", name);
	types[0] = OIDOID;
	memcpy(&types[1], public_types, nargs * sizeof(Oid));

	tuple = SearchSysCache3(PROCNAMEARGSNSP, CStringGetDatum(name),
							PointerGetDatum(buildoidvector(types, nargs + 1)),
							ObjectIdGetDatum(schema));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "no function \"%s\" takes an oid and the arguments of %s",
			 name, get_func_name(public_function));
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	if (!proc->prosecdef)
		elog(ERROR, "function \"%s\" is not SECURITY DEFINER", name);
	oid = proc->oid;
	ReleaseSysCache(tuple);
	return oid;
}
